"""Short instructions with rule-made answers, for the initialisation of the adapters."""

from __future__ import annotations

from random import Random

from dlskip.data.embedded.lexicon import CITIES, DAYS, KINDS, NAMES, PERSONS, SCALES, THINGS
from dlskip.data.embedded.pairs import a, up


def instruction(rng: Random) -> tuple[str, str]:
    """One instruction and its answer."""
    words = rng.sample(PERSONS + THINGS + list(KINDS), 4)
    kind = rng.randrange(10)
    x, y = rng.sample(NAMES, 2)
    if kind == 0:
        return f"Repeat the words: {' '.join(words[:3])}", " ".join(words[:3])
    if kind == 1:
        return f"Reverse the order: {' '.join(words[:3])}", " ".join(reversed(words[:3]))
    if kind == 2:
        return f"Write in capitals: {words[0]}", words[0].upper()
    if kind == 3:
        return f"Sort by alphabet: {', '.join(words[:3])}", ", ".join(sorted(words[:3]))
    if kind == 4:
        n = rng.randrange(2, 5)
        return f"How many words? {' '.join(words[:n])}", ["two", "three", "four"][n - 2]
    if kind == 5:
        low, high = rng.choice(list(KINDS.items()))
        return f"What kind of thing is {a(low)}?", up(a(high))
    if kind == 6:
        day = rng.randrange(7)
        return f"Which day follows {DAYS[day]}?", DAYS[(day + 1) % 7]
    if kind == 7:
        more, less = rng.choice(SCALES)
        return f"{x} is {more} than {y}. Who is {less}?", y
    if kind == 8:
        city = rng.choice(CITIES)
        return f"{x} lives in {city} with {a(words[0])}. Where does {x} live?", f"In {city}."
    return f"Make a sentence with '{words[0]}' and '{words[1]}'.", up(f"{x} saw {a(words[0])} and {a(words[1])}")
