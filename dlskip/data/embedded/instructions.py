"""Short instructions with rule-made answers, for the initialisation of the adapters."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from dlskip.data.embedded.lexicon import (
    ACTS,
    CITIES,
    DAYS,
    FIRST_NAMES,
    KINDS,
    OPPOSITES,
    PERSON_VERBS,
    PERSONS,
    SCALES,
    THINGS,
)
from dlskip.data.embedded.phrases import a, plural_of, two, up

_WORDS = [*PERSONS, *THINGS, *KINDS]
_NUMBERS = ["two", "three", "four", "five"]


def _repeat(rng: Random) -> tuple[str, str]:
    words = " ".join(rng.sample(_WORDS, 3))
    return f"Repeat the words: {words}", words


def _reverse(rng: Random) -> tuple[str, str]:
    words = rng.sample(_WORDS, 3)
    return f"Reverse the order: {' '.join(words)}", " ".join(reversed(words))


def _sort(rng: Random) -> tuple[str, str]:
    words = rng.sample(_WORDS, 3)
    return f"Sort by alphabet: {', '.join(words)}", ", ".join(sorted(words))


def _capitals(rng: Random) -> tuple[str, str]:
    word = rng.choice(_WORDS)
    return f"Write in capitals: {word}", word.upper()


def _count(rng: Random) -> tuple[str, str]:
    n = rng.randrange(4)
    return f"How many words? {' '.join(rng.sample(_WORDS, n + 2))}", _NUMBERS[n]


def _kind(rng: Random) -> tuple[str, str]:
    low, high = rng.choice(list(KINDS.items()))
    others = rng.sample([k for k, kind in KINDS.items() if kind != high], 2)
    options = [low, *others]
    rng.shuffle(options)
    return f"Which is {a(high)}: {options[0]}, {options[1]} or {options[2]}?", up(a(low))


def _odd(rng: Random) -> tuple[str, str]:
    kinds = sorted(set(KINDS.values()))
    first, second = two(rng, kinds)
    same = rng.sample([k for k, kind in KINDS.items() if kind == first], 3)
    odd = rng.choice([k for k, kind in KINDS.items() if kind == second])
    words = [*same, odd]
    rng.shuffle(words)
    return f"Which word does not belong? {', '.join(words)}", odd


def _day(rng: Random) -> tuple[str, str]:
    i = rng.randrange(7)
    step = rng.choice([1, -1])
    name = rng.choice(FIRST_NAMES)
    word = "after" if step == 1 else "before"
    return f"{name} comes the day {word} {DAYS[i]}. When is that?", up(f"on {DAYS[(i + step) % 7]}")


def _compare(rng: Random) -> tuple[str, str]:
    x, y = two(rng, FIRST_NAMES)
    more, less = rng.choice(SCALES)
    return f"{x} is {more} than {y}. Who is {less}?", y


def _bigger(rng: Random) -> tuple[str, str]:
    x, y = two(rng, [str(n) for n in range(11, 100)])
    return f"Which number is bigger, {x} or {y}?", str(max(int(x), int(y)))


def _where(rng: Random) -> tuple[str, str]:
    x, y = two(rng, FIRST_NAMES)
    here, there = two(rng, CITIES)
    return f"{x} lives in {here} and {y} in {there}. Where does {x} live?", f"In {here}."


def _opposite(rng: Random) -> tuple[str, str]:
    first, second = rng.sample(rng.choice(OPPOSITES), 2)
    noun = rng.choice(THINGS)
    return f"Say the opposite: {a(first)} {noun}", f"{a(second)} {noun}"


def _plural(rng: Random) -> tuple[str, str]:
    word = rng.choice([*PERSONS, *THINGS])
    n = rng.choice(_NUMBERS)
    return f"Complete: one {word}, {n} ...", plural_of(word)


def _past(rng: Random) -> tuple[str, str]:
    x = rng.choice(FIRST_NAMES)
    past, _, third = rng.choice(list(ACTS.values()))
    return f"Put into the past: {x} {third}.", f"{x} {past}."


def _passive(rng: Random) -> tuple[str, str]:
    x, y = two(rng, FIRST_NAMES)
    past, participle, _, _ = rng.choice(list(PERSON_VERBS.values()))
    return f"Put into the passive: {x} {past} {y}.", f"{y} was {participle} by {x}."


def _first(rng: Random) -> tuple[str, str]:
    words = rng.sample(_WORDS, 4)
    last = rng.random() < 0.5
    return f"Give the {'last' if last else 'first'} word: {' '.join(words)}", words[-1 if last else 0]


_MAKERS: list[Callable[[Random], tuple[str, str]]] = [
    _repeat, _reverse, _sort, _capitals, _count, _kind, _odd, _day, _compare, _bigger, _where, _opposite, _plural,
    _past, _passive, _first,
]  # fmt: skip


def instruction(rng: Random) -> tuple[str, str]:
    """One instruction and its answer."""
    return rng.choice(_MAKERS)(rng)
