"""Answerability: a question and a sentence; label 1 = the sentence answers the question.

The kind of answer decides (easy to harder: who or what, how many or what colour, when or where or why), or who did it
to whom, or which of two people the answer is about (hardest).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from dlskip.data.embedded.grammar import Grammar, Row
from dlskip.data.embedded.lexicon import (
    COLOURS,
    EVENTS,
    FIRST_NAMES,
    NUMBERS,
    PERCEIVED,
    PERSON_VERBS,
    SLOTS,
    THINGS,
    TRADED,
)
from dlskip.data.embedded.phrases import People, capital, plural_of, two, up

Build = Callable[[Random, People, bool], tuple[str, str]]  # question and sentence about two people, for a label


def person_or_thing(rng: Random, people: People, yes: bool) -> tuple[str, str]:
    """Who or what."""
    x, y = people
    stem, past = rng.choice(PERCEIVED)
    what = rng.random() < 0.5
    seen = "the " + rng.choice(THINGS) if what == yes else y
    return f"{'what' if what else 'who'} did {x} {stem}?", f"{x} {past} {seen}"


def number_or_colour(rng: Random, people: People, yes: bool) -> tuple[str, str]:
    """How many or what colour."""
    stem, past = rng.choice(TRADED)
    things = plural_of(rng.choice(THINGS))
    many = rng.random() < 0.5
    question = f"how many {things} did {people.x} {stem}?" if many else f"what colour were the {things}?"
    return question, f"{people.x} {past} {rng.choice(NUMBERS if many == yes else COLOURS)} {things}"


class Event(NamedTuple):
    """What somebody did: base form and past, the question word asked, the one answered, and the other of the two."""

    stem: str
    past: str
    asked: str
    answered: str
    other: str


def circumstance_of_that(rng: Random, people: People, yes: bool) -> tuple[str, str]:
    """When, where or why was that? The question does not repeat the verb."""
    event = _event(rng, yes)
    question = f"{event.asked} was that?" if event.asked != "how" else f"how did {people.x} {event.stem}?"
    return question, _clause(rng, people.x, event)


def circumstance(rng: Random, people: People, yes: bool) -> tuple[str, str]:
    """When, where, how or why did somebody do it?"""
    event = _event(rng, yes)
    return f"{event.asked} did {people.x} {event.stem}?", _clause(rng, people.x, event)


def roles(rng: Random, people: People, yes: bool) -> tuple[str, str]:
    """Who did it to whom."""
    x, y = people
    stem, (past, _, _, _) = rng.choice(list(PERSON_VERBS.items()))
    subject = rng.random() < 0.5
    question = f"who {past} {y}?" if subject else f"who did {y} {stem}?"
    return question, f"{x} {past} {y}" if yes == subject else f"{y} {past} {x}"


def circumstances_of_two(rng: Random, people: People, yes: bool) -> tuple[str, str]:
    """Two people did the same: of one the sentence says when, of the other why, for example."""
    x, y = people
    event = _event(rng, yes)
    clause = f"{x} {event.past} {rng.choice(SLOTS[event.answered])}"
    other = f"{y} {event.past} {rng.choice(SLOTS[event.other])}"
    sentence = f"{other}, but {clause}" if event.answered == "why" else f"{clause}, but {other}"
    return f"{event.asked} did {x} {event.stem}?", sentence


def _event(rng: Random, yes: bool) -> Event:
    stem, past, words = rng.choice(EVENTS)
    asked, other = two(rng, words)
    return Event(stem, past, asked, asked, other) if yes else Event(stem, past, asked, other, asked)


def _clause(rng: Random, x: str, event: Event) -> str:
    """Who did it and the circumstance, which now and then stands in front."""
    clause = f"{x} {event.past} {rng.choice(SLOTS[event.answered])}"
    if event.answered != "why" and rng.random() < 0.2:
        return f"{rng.choice(SLOTS[event.answered])}, {x} {event.past}"
    return clause


def answerability(rng: Random, label: int, build: Build) -> Row:
    """A row by a construction."""
    people = People(*two(rng, FIRST_NAMES))
    question, sentence = build(rng, people, label == 1)
    return {"question": capital(question), "sentence": up(sentence)}


GRAMMAR: Grammar[Build] = Grammar(
    answerability,
    {
        person_or_thing: 8, number_or_colour: 5, circumstance_of_that: 4, circumstance: 2, roles: 3,
        circumstances_of_two: 3,
    },
    unseen=frozenset({roles, circumstances_of_two}),
)  # fmt: skip
