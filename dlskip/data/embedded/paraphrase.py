"""Paraphrase: two sentences; label 1 = they mean the same."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from dlskip.data.embedded.grammar import Grammar, Row
from dlskip.data.embedded.lexicon import ACTS, ANTONYMS, CITIES, DAYS, PAIRED, SCALES, SYNONYMS, THINGS
from dlskip.data.embedded.phrases import People, a, two, up, verb, who

Build = Callable[[Random, People, bool], tuple[str, str]]  # two sentences about two people, for a label


def passive(rng: Random, people: People, same: bool) -> tuple[str, str]:
    """Active and passive."""
    x, y = people
    act, part = verb(rng)
    return f"{x} {act} {y}", f"{y} was {part} by {x}" if same else f"{x} was {part} by {y}"


def trade(rng: Random, people: People, same: bool) -> tuple[str, str]:
    """Sold to, bought from."""
    x, y = people
    thing = a(rng.choice(THINGS))
    return f"{x} sold {thing} to {y}", f"{y} bought {thing} from {x}" if same else f"{x} bought {thing} from {y}"


def order_in_time(rng: Random, people: People, same: bool) -> tuple[str, str]:
    """Before and after."""
    x, y = people
    early, late = two(rng, [v[0] for v in ACTS.values()])
    return (
        f"{x} {early} before {y} {late}",
        f"{y} {late} after {x} {early}" if same else f"{x} {early} after {y} {late}",
    )


def receiver(rng: Random, people: People, same: bool) -> tuple[str, str]:
    """Gave somebody something, gave something to somebody."""
    x, y = people
    thing = a(rng.choice(THINGS))
    give = rng.choice(["gave", "sent", "showed", "lent"])
    return f"{x} {give} {y} {thing}", f"{x} {give} {thing} to {y}" if same else f"{y} {give} {thing} to {x}"


def comparatives(rng: Random, people: People, same: bool) -> tuple[str, str]:
    """Taller and shorter."""
    x, y = people
    more, less = rng.choice(SCALES)
    return f"{x} is {more} than {y}", f"{y} is {less} than {x}" if same else f"{x} is {less} than {y}"


def synonyms(rng: Random, people: People, same: bool) -> tuple[str, str]:
    """Began and started, began and stopped."""
    left, right = rng.choice(SYNONYMS if same else ANTONYMS)
    activity = rng.choice(PAIRED)
    when = rng.choice(["last year", "last summer", "on " + rng.choice(DAYS), "in " + rng.choice(CITIES)])
    return f"{people.x} {left} {activity} {when}", f"{when}, {people.x} {right} {activity}"


def paraphrase(rng: Random, label: int, build: Build) -> Row:
    """A row by a construction, its sentences in either order."""
    people = who(rng)
    first, second = build(rng, people, label == 1)
    if rng.random() < 0.5:
        first, second = second, first
    return {"sentence1": up(first), "sentence2": up(second)}


GRAMMAR: Grammar[Build] = Grammar(
    paraphrase,
    {passive: 3, trade: 3, order_in_time: 3, receiver: 2, comparatives: 3, synonyms: 2},
    unseen=frozenset({receiver, synonyms}),
)
