"""Sentiment: an opinion; label 1 = positive. Often lexical, often turned by negation, contrast or another's view."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from dlskip.data.embedded.grammar import Grammar, Row
from dlskip.data.embedded.lexicon import BAD, FIRST_NAMES, GOOD, WORKS
from dlskip.data.embedded.phrases import a, two, up


class Words(NamedTuple):
    """A work, a part of it, a name; two adjectives of the label and one of the opposite label."""

    work: str
    part: str
    name: str
    right: str
    also_right: str
    wrong: str


Build = Callable[[Words], list[str]]  # sentences of a construction, all of the label


def lexical(words: Words) -> list[str]:
    """The adjectives say it."""
    work, part, _, right, also_right, _ = words
    return [
        f"{a(right)} and {also_right} {work}",
        f"the {work} is {right} and {also_right}",
        f"{a(right)} {work}, and its {part} is {also_right}",
    ]


def negation(words: Words) -> list[str]:
    """The opposite is denied."""
    work, part, _, right, _, wrong = words
    return [
        f"the {part} is not {wrong} at all",
        f"this is by no means {a(wrong)} {work}",
        f"the {work} is far from {wrong}",
        f"nobody could call this {work} {wrong}",
        f"the {part} is anything but {wrong}",
        f"the {work} is hardly {wrong}",
        f"I could not find the {part} {wrong}",
        f"not once is this {work} {wrong}",
        f"the {part} is never less than {right}",
    ]


def contrast(words: Words) -> list[str]:
    """What the speaker settles on counts, wherever it stands."""
    work, part, _, right, _, wrong = words
    return [
        f"the {part} is {wrong}, but the {work} is {right}",
        f"even with its {wrong} {part}, the {work} is {right}",
        f"the {work} is {right}, even if the {part} is {wrong}",
        f"{a(right)} {work} despite its {wrong} {part}",
        f"the {work} stays {right}, {wrong} {part} or not",
        f"for all its {wrong} moments, {a(right)} {work}",
        f"{a(right)} {work}, although the {part} is {wrong}",
        f"we expected {a(wrong)} {work} and got {a(right)} one",
        f"{a(right)} {work} where I had expected {a(wrong)} one",
    ]


def another_view(words: Words) -> list[str]:
    """What somebody else thinks, and whether that is right (hard)."""
    work, part, name, right, _, wrong = words
    return [
        f"{name} called it {wrong}, and {name} was wrong",
        f"{name} called it {right}, and {name} was right",
        f"{name} finds the {part} {wrong}; I do not",
        f"{name} finds the {part} {right}; so do I",
        f"{name} was wrong to call this {work} {wrong}",
        f"{name} was right to call this {work} {right}",
        f"only {name} could find this {work} {wrong}",
    ]


def distant_negation(words: Words) -> list[str]:
    """The negation is doubled, or far away (hard)."""
    work, part, _, right, _, wrong = words
    return [
        f"it is not true that the {part} is not {right}",
        f"it is not true that the {part} is {wrong}",
        f"whoever finds the {part} {wrong} has not understood it",
        f"whoever does not find the {part} {right} has not understood it",
        f"I am not with those who find the {work} {wrong}",
        f"the {part} sounds {wrong} and is the opposite",
    ]


def sentiment(rng: Random, label: int, build: Build) -> Row:
    """A row by a construction."""
    fitting, opposite = (GOOD, BAD) if label == 1 else (BAD, GOOD)
    work = rng.choice(list(WORKS))
    name = rng.choice(FIRST_NAMES)
    part = rng.choice(WORKS[work])
    right, also_right = two(rng, fitting)
    words = Words(work, part, name, right, also_right, wrong=rng.choice(opposite))
    return {"sentence": up(rng.choice(build(words)))}


GRAMMAR: Grammar[Build] = Grammar(
    sentiment,
    {lexical: 3, negation: 3, contrast: 3, another_view: 2, distant_negation: 3},
    unseen=frozenset({distant_negation}),
)
