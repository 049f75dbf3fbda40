"""Entailment: a premise and a hypothesis; label 1 = the premise entails the hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from dlskip.data.embedded.grammar import Grammar, Row
from dlskip.data.embedded.lexicon import ACTS, KINDS, PERSONS, SCALES, WILLED
from dlskip.data.embedded.phrases import a, up, verb, who


class Words(NamedTuple):
    """Two people, and the past of something that one does alone."""

    x: str
    y: str
    past: str


Build = Callable[[Random, Words, bool], tuple[str, str]]  # premise and hypothesis, for a label

# (premise, hypothesis) by label; each word stands equally often under both labels, so that none gives the answer away.
_QUANTIFIED = (
    [("all", "none"), ("each", "not all"), ("none", "some"), ("some", "all"), ("not one", "at least one")],
    [("all", "some"), ("each", "all"), ("none", "not all"), ("some", "at least one"), ("not one", "none")],
)
_COORDINATED = (
    [("and", "not"), ("and", "neither"), ("one", "and"), ("or", "one"), ("neither", "or")],
    [("and", "one"), ("and", "dna"), ("one", "or"), ("or", "ro"), ("neither", "not")],
)


def quantifiers(rng: Random, words: Words, yes: bool) -> tuple[str, str]:
    """All, each, some, not one."""
    first, second = rng.choice(_QUANTIFIED[yes])
    noun = rng.choice(PERSONS) + "s"
    return f"{first} of the {noun} {words.past}", f"{second} of the {noun} {words.past}"


def hypernyms(rng: Random, words: Words, yes: bool) -> tuple[str, str]:
    """A rose is a flower: upward, and downward under negation."""
    low, high = rng.choice(list(KINDS.items()))
    act, base = rng.choice([("bought", "buy"), ("found", "find"), ("saw", "see"), ("drew", "draw"), ("sold", "sell")])
    negative = rng.random() < 0.5
    did = f"did not {base}" if negative else act
    of_low, of_high = f"{words.x} {did} {a(low)}", f"{words.x} {did} {a(high)}"
    return (of_low, of_high) if yes != negative else (of_high, of_low)


def coordination(rng: Random, words: Words, yes: bool) -> tuple[str, str]:
    """And, or, neither."""
    stem, (past, _, _) = rng.choice(list(ACTS.items()))
    one = rng.choice([words.x, words.y])
    said = {
        "and": f"{words.x} and {words.y} {past}", "dna": f"{words.y} and {words.x} {past}",
        "or": f"{words.x} or {words.y} {past}", "ro": f"{words.y} or {words.x} {past}",
        "neither": f"neither {words.x} nor {words.y} {past}", "one": f"{one} {past}", "not": f"{one} did not {stem}",
    }  # fmt: skip
    first, second = rng.choice(_COORDINATED[yes])
    return said[first], said[second]


def implicatives(rng: Random, words: Words, yes: bool) -> tuple[str, str]:
    """Managed to, failed to, forgot to."""
    stem, (done, _, _) = rng.choice([(v, ACTS[v]) for v in WILLED])
    holds = rng.random() < 0.5
    premise = f"{words.x} {'managed' if holds else rng.choice(['failed', 'forgot'])} to {stem}"
    return premise, f"{words.x} {done}" if holds == yes else f"{words.x} did not {stem}"


def truth(rng: Random, words: Words, yes: bool) -> tuple[str, str]:
    """It is true that, it is false that."""
    stem, (done, _, _) = rng.choice(list(ACTS.items()))
    holds = rng.random() < 0.5
    premise = f"it is {'true' if holds else 'false'} that {words.x} {done}"
    return premise, f"{words.x} {done}" if holds == yes else f"{words.x} did not {stem}"


def passive(rng: Random, words: Words, yes: bool) -> tuple[str, str]:
    """Who did it to whom, in the passive."""
    x, y, _ = words
    act, part = verb(rng)
    return f"{x} {act} {y}", f"{y} was {part} by {x}" if yes else f"{x} was {part} by {y}"


def comparatives(rng: Random, words: Words, yes: bool) -> tuple[str, str]:
    """Taller, shorter, not taller."""
    x, y, _ = words
    more, less = rng.choice(SCALES)
    if rng.random() < 0.5:
        more, less = less, more
    low, high = (y, x) if yes else (x, y)
    return f"{x} is {more} than {y}", rng.choice([f"{low} is {less} than {high}", f"{low} is not {more} than {high}"])


def entailment(rng: Random, label: int, build: Build) -> Row:
    """A row by a construction."""
    words = Words(*who(rng), past=rng.choice(list(ACTS.values()))[0])
    premise, hypothesis = build(rng, words, label == 1)
    return {"sentence1": up(premise), "sentence2": up(hypothesis)}


GRAMMAR: Grammar[Build] = Grammar(
    entailment,
    {quantifiers: 1, hypernyms: 1, coordination: 1, implicatives: 1, truth: 1, passive: 1, comparatives: 1},
    unseen=frozenset({implicatives, comparatives}),
)
