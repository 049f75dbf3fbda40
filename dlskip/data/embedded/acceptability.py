"""Acceptability: a sentence; label 1 = acceptable. Both labels use the same words: only their fit differs."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from dlskip.data.embedded.grammar import Grammar, Row
from dlskip.data.embedded.lexicon import CITIES, DAYS, FIRST_NAMES, PERSON_VERBS, PERSONS, THINGS
from dlskip.data.embedded.phrases import capital, plural_of, two, up, verb


class Words(NamedTuple):
    """Two trades, a name, a thing, and when or where it was (with a space before it, or nothing)."""

    x: str
    y: str
    name: str
    thing: str
    when: str


Build = Callable[[Random, Words, bool], str]  # a sentence, acceptable or not

_PLACES = ["the kitchen", "the garden", "the cellar", "the hall", "the car", "the box", "the drawer"]
# without "beat", whose past is its base form
_PRESENT = [(stem, third) for stem, (past, _, third, _) in PERSON_VERBS.items() if past != stem]
_INTRANSITIVE = ["slept", "laughed", "arrived", "smiled", "coughed", "fell", "yawned", "stumbled", "sneezed"]
_MEN = ["the king", "my uncle", "the boy", "his father", "the monk", "my brother"]
_WOMEN = ["the queen", "my aunt", "the girl", "her mother", "the nun", "my sister"]


def agreement_across_a_phrase(rng: Random, words: Words, good: bool) -> str:
    """The boys behind the cook are tired."""
    head, inner, plural = _two_numbers(rng, words)
    link = rng.choice(["behind", "near", "next to", "beside", "in front of"])
    be = "are" if plural == good else "is"
    return f"the {head} {link} the {inner} {be} {rng.choice(['tired', 'happy', 'late', 'hungry', 'busy', 'angry'])}"


def word_order(rng: Random, words: Words, good: bool) -> str:
    """The cook saw the boy."""
    past, _ = verb(rng)
    right = f"the {words.x} {past} the {words.y}{words.when}".split()
    if good:
        return " ".join(right)
    i = rng.randrange(min(4, len(right) - 1))
    wrong = _swapped(right, i)
    return " ".join(wrong if wrong != right else _swapped(right, 0))


def reflexives(rng: Random, words: Words, good: bool) -> str:
    """The king hurt himself."""
    male = rng.random() < 0.5
    subject = rng.choice(_MEN if male else _WOMEN)
    act = rng.choice(["hurt", "blamed", "praised", "admired", "cut", "surprised"])
    return f"{subject} {act} {'himself' if male == good else 'herself'}{words.when}"


def participles(rng: Random, words: Words, good: bool) -> str:
    """The cook has seen the boy."""
    past, part, _, _ = rng.choice([v for v in PERSON_VERBS.values() if v[0] != v[1] != "beaten"])
    has = rng.random() < 0.5
    form = part if has == good else past
    return f"the {words.x} {'has ' if has else ''}{form} the {words.y}{'' if has else words.when}"


def determiners(rng: Random, words: Words, good: bool) -> str:
    """Anna sold these books."""
    plural = rng.random() < 0.5
    noun = plural_of(words.thing) if plural == good else words.thing
    determiner = rng.choice(["these", "those"] if plural else ["this", "that"])
    return f"{words.name} sold {determiner} {noun}{words.when}"


def argument_structure(rng: Random, words: Words, good: bool) -> str:
    """The cook fixed the radio before the boy arrived: one verb needs an object, the other forbids it."""
    needs = rng.random() < 0.5
    act = rng.choice(["wanted", "fixed", "mentioned", "carried", "repaired"] if needs else _INTRANSITIVE)
    object_ = f" the {words.thing}" if needs == good else ""
    return f"the {words.x} {act}{object_} before the {words.y} arrived"


def goals(rng: Random, words: Words, good: bool) -> str:
    """Anna put the book into the box: one verb requires a goal, the other forbids it."""
    needs = rng.random() < 0.5
    act = "put" if needs else rng.choice(["bought", "lost", "borrowed"])
    goal = f" into {rng.choice(_PLACES)}" if needs == good else ""
    return f"{words.name} {act} the {words.thing}{goal}"


def gaps(rng: Random, words: Words, good: bool) -> str:
    """Who did the cook blame? A question word and its gap."""
    act = rng.choice(["blame", "praise", "thank", "greet", "trust", "envy", "arrest", "insult"])
    gap = rng.random() < 0.5
    return f"{'who did' if gap else 'did'} the {words.x} {act}{'' if gap == good else f' the {words.y}'}?"


def agreement_beside_a_modal(rng: Random, words: Words, good: bool) -> str:
    """The cook must see the boy, the cook sees the boy (easy)."""
    stem, third = rng.choice(_PRESENT)
    third_person = rng.random() < 0.5
    modal = rng.choice(["can", "must", "will", "should"])
    form = third if third_person == good else stem
    when = words.when if words.when != " yesterday" else ""
    return f"the {words.x} {'' if third_person else modal + ' '}{form} the {words.y}{when}"


def agreement_across_a_clause(rng: Random, words: Words, good: bool) -> str:
    """The boys that the cook saw like Anna."""
    stem, third = rng.choice(_PRESENT)
    head, inner, plural = _two_numbers(rng, words)
    form = stem if plural == good else third
    past, _ = verb(rng)
    return f"the {head} that the {inner} {past} {form} {words.name}"


def _two_numbers(rng: Random, words: Words) -> tuple[str, str, bool]:
    """Two people, one in the plural; whether it is the first."""
    if rng.random() < 0.5:
        return f"{words.x}s", words.y, True
    return words.x, f"{words.y}s", False


def _swapped(words: list[str], i: int) -> list[str]:
    """The words, that at ``i`` behind the next."""
    return [*words[:i], words[i + 1], words[i], *words[i + 2 :]]


def acceptability(rng: Random, label: int, build: Build) -> Row:
    """A row by a construction."""
    x, y = two(rng, PERSONS)
    name = rng.choice(FIRST_NAMES)
    when = rng.choice(["", f" on {rng.choice(DAYS)}", f" in {rng.choice(CITIES)}", " yesterday"])
    text = build(rng, Words(x, y, name, rng.choice(THINGS), when), label == 1)
    return {"sentence": capital(text) if text.endswith("?") else up(text)}


_BUILDS: tuple[Build, ...] = (
    agreement_across_a_phrase, word_order, reflexives, participles, determiners, argument_structure, goals, gaps,
    agreement_beside_a_modal, agreement_across_a_clause,
)  # fmt: skip
GRAMMAR: Grammar[Build] = Grammar(
    acceptability,
    dict.fromkeys(_BUILDS, 1),
    unseen=frozenset({reflexives, goals, agreement_across_a_clause}),
)
