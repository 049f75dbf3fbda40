"""Words and phrases that the grammars share: articles, plurals, pairs of people, sentences."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from dlskip.data.embedded.lexicon import FIRST_NAMES, PERSON_VERBS, PERSONS


class People(NamedTuple):
    """Two different people."""

    x: str
    y: str


def two(rng: Random, words: Sequence[str]) -> tuple[str, str]:
    """Two different words."""
    first, second = rng.sample(list(words), 2)
    return first, second


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural_of(noun: str) -> str:
    """The noun's plural."""
    if noun.endswith("fe"):
        return noun[:-2] + "ves"
    return noun + ("es" if noun.endswith(("ch", "s", "x", "sh")) else "s")


def who(rng: Random) -> People:
    """Two different people: both by name, or both by trade."""
    if rng.random() < 0.5:
        return People(*two(rng, FIRST_NAMES))
    x, y = two(rng, PERSONS)
    return People(f"the {x}", f"the {y}")


def capital(text: str) -> str:
    """The text with a capital."""
    return text[0].upper() + text[1:]


def up(text: str) -> str:
    """The sentence with a capital and a full stop."""
    return capital(text) + "."


def verb(rng: Random) -> tuple[str, str]:
    """Past and participle of a verb between two people."""
    past, participle, _, _ = rng.choice(list(PERSON_VERBS.values()))
    return past, participle
