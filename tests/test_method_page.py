"""docs/method.md is what docstrings point to: its sections exist, and its equations stand where it says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path("docs/method.md").read_text(encoding="utf-8")
SECTIONS = {int(n) for n in re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE)}
SOURCES = [
    *(p for folder in ("dlskip", "stages", "tests") for p in sorted(Path(folder).rglob("*.py"))),
    *(Path(name) for name in ("params.yaml", "dvc.yaml", "README.md", "FAITHFULNESS.md", "CONTRIBUTING.md")),
    *sorted(Path("docs").glob("*.md")),
]
REFERENCE = re.compile(r"docs/method\.md\s+§(\d+)(?:-(\d+))?")


def numbers(text: str) -> set[int]:
    """The equations that a text names: ``eq 6``, ``eqs 7-9``, ``eqs 5, 6``."""
    found: set[int] = set()
    for part in re.findall(r"\beqs? ((?:\d+(?:-\d+)?)(?:(?:, | and )\d+(?:-\d+)?)*)", text):
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", part):
            found |= set(range(int(first), int(last or first) + 1))
    return found


def equations() -> dict[str, set[int]]:
    """Section 10: what holds which equations."""
    rows = re.findall(r"^\| ([\d-]+) \| [^|]+ \| `(dlskip[\w.]+)` \|$", PAGE, re.MULTILINE)
    return {holder: numbers(f"eqs {which}") for which, holder in rows}


def test_sections_are_numbered_without_a_gap() -> None:
    assert sorted(SECTIONS) == list(range(1, 11))


def test_every_reference_points_to_a_section() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for first, last in REFERENCE.findall(text):
            assert {int(first), int(last or first)} <= SECTIONS, f"{path}: §{first}"
        bare = re.findall(r"\bmethod\s+§\d+", text)
        assert not bare, f"{path}: {bare} names no document; write docs/method.md §n"


def test_the_paper_has_fifteen_equations_and_each_has_its_holder() -> None:
    covered = set().union(*equations().values()) | {1, 2, 3}  # the backbone's own
    assert covered == set(range(1, 16))


@pytest.mark.parametrize(("holder", "which"), equations().items())
def test_a_holder_names_its_equations(holder: str, which: set[int]) -> None:
    module, _, name = holder.rpartition(".")
    assert which <= numbers(getattr(importlib.import_module(module), name).__doc__)


def test_no_text_names_an_equation_that_the_paper_lacks() -> None:
    for path in SOURCES:
        assert numbers(path.read_text(encoding="utf-8")) <= set(range(1, 16)), path
