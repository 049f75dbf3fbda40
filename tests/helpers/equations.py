"""The paper's equations as docs/method.md §10 lists them, and what is wrong where a text names one.

A text names an equation after one of the words that the list has for it: ``the reward (eq 12)`` is wrong, for 12 is
the objective. In a formula its first word counts; where no word comes before, as in a row of a table, the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PAGE = Path("docs/method.md")
COUNT = 15  # equations of the paper
_MENTION = re.compile(r"\beqs?\s((?:\d+(?:-\d+)?)(?:(?:,\s|\sand\s)\d+(?:-\d+)?)*)", re.IGNORECASE)
_PART = re.compile(r"(\d+)(?:-(\d+))?")
# Words of the list that say nothing of an equation by themselves.
_COMMON = frozenset(
    {"the", "of", "by", "on", "to", "in", "with", "its", "their", "from", "which", "that", "is", "layer", "layers",
     "over", "calls", "paper", "parallel", "loss", "weight", "mean", "next", "token", "head", "prompt", "skip"}
)  # fmt: skip
_NEAR = 250  # characters on either side of a mention that are looked at
_FORMULA = re.compile(r"\s{3,}eq \d+$|#\s*eq")  # how a line with a formula ends


class Equation(NamedTuple):
    """A row of the list: what it is called in texts, and the function or class that computes it."""

    words: frozenset[str]
    holder: str


def listed() -> dict[int, Equation]:
    """The list."""
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| `(dlskip[\w.]+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = {}
    for number, what, holder in rows:
        plain = re.sub(r"\(the backbone's\)", "", what)
        symbols = set(re.findall(r"`([^`]+)`", plain))
        words = set(re.findall(r"[A-Za-z]{2,}", re.sub(r"`[^`]+`", "", plain))) - _COMMON
        found[int(number)] = Equation(frozenset(symbols | words), holder)
    return found


LISTED = listed()


def numbers(text: str) -> set[int]:
    """The equations that a text names: ``eq 6``, ``eqs 7-9``, ``eqs 5, 6``."""
    parts = [part for mention in _MENTION.findall(text) for part in _PART.findall(mention)]
    return {n for first, last in parts for n in range(int(first), int(last or first) + 1)}


def mistakes(text: str) -> Iterator[str]:
    """What is wrong with the equations that a text names."""
    for mention in _MENTION.finditer(text):
        said, words = _said(text, mention)
        for first, last in ((int(a), int(b or a)) for a, b in _PART.findall(mention[1])):
            if not 1 <= first <= last <= COUNT:
                yield f"{mention[0]}: the paper has {COUNT} equations"
            elif last > first and (_holder(first - 1) == _holder(first) or _holder(last + 1) == _holder(last)):
                yield f"{mention[0]}: this range cuts through what belongs together"
            elif not any(words & LISTED[n].words for n in range(first, last + 1)):
                yield f"{mention[0]} in {said!r}: that is {', '.join(sorted(words)) or 'none of the list'}"


def _holder(number: int) -> str:
    return LISTED[number].holder if number in LISTED else ""


def _said(text: str, mention: re.Match[str]) -> tuple[str, frozenset[str]]:
    """What a mention is about: the text, and the word of the list that counts (several that stand in one place)."""
    start, end = text.rfind("\n", 0, mention.start()) + 1, text.find("\n", mention.end())
    line = text[start : end if end >= 0 else len(text)]
    if _FORMULA.search(line):
        found = _places(line)
        return line, frozenset(w for w, (begin, _) in found if begin == min(b for _, (b, _) in found))
    row = line.startswith("|")
    before = text[start if row else max(0, mention.start() - _NEAR) : mention.start()].rpartition("\n\n")[2]
    if found := _places(before):
        return before, frozenset(w for w, (_, end) in found if end == max(e for _, (_, e) in found))
    after = text[mention.end() : mention.end() + _NEAR].partition("\n" if row else "\n\n")[0]
    found = _places(after)
    return after, frozenset(w for w, (begin, _) in found if begin == min(b for _, (b, _) in found))


def _places(text: str) -> list[tuple[str, tuple[int, int]]]:
    """Where the words of the list stand, also with another ending; symbols also without ``L_``, as code writes them."""
    found = []
    for word in frozenset().union(*(equation.words for equation in LISTED.values())):
        if word.isalpha() and len(word) > 2:
            pattern, where = rf"(?<![a-z]){word.casefold()[:9].removesuffix('s')}[a-z]*", text.casefold()
        else:
            pattern, where = rf"(?<![A-Za-z]){re.escape(word.removeprefix('L_'))}(?![A-Za-z])", text
        found += [(word, match.span()) for match in re.finditer(pattern, where)]
    return found
