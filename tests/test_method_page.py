"""docs/method.md is what docstrings point to: its sections exist, and its equations stand where it says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.helpers.equations import COUNT, LISTED, mistakes, numbers
from tests.helpers.equations import PAGE as PAGE_OF

PAGE = PAGE_OF.read_text(encoding="utf-8")
SECTIONS = {int(n) for n in re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE)}
SOURCES = [
    *(p for folder in ("dlskip", "stages", "tests") for p in sorted(Path(folder).rglob("*.py"))),
    *(Path(name) for name in ("params.yaml", "dvc.yaml", "README.md", "FAITHFULNESS.md", "CONTRIBUTING.md")),
    *sorted(Path("docs").glob("*.md")),
]
REFERENCE = re.compile(r"docs/method\.md\s+§(\d+)(?:-(\d+))?")


def test_sections_are_numbered_without_a_gap() -> None:
    assert sorted(SECTIONS) == list(range(1, 11))


def test_every_reference_points_to_a_section() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        for first, last in REFERENCE.findall(text):
            assert {int(first), int(last or first)} <= SECTIONS, f"{path}: §{first}"
        bare = re.findall(r"\bmethod\s+§\d+", text)
        assert not bare, f"{path}: {bare} names no document; write docs/method.md §n"


def test_the_list_has_every_equation_of_the_paper_once() -> None:
    assert list(LISTED) == list(range(1, COUNT + 1)) and all(equation.words for equation in LISTED.values())


@pytest.mark.parametrize("holder", sorted({equation.holder for equation in LISTED.values()}))
def test_a_holder_names_its_equations_and_no_other(holder: str) -> None:
    module, _, name = holder.rpartition(".")
    its = {number for number, equation in LISTED.items() if equation.holder == holder}
    assert numbers(getattr(importlib.import_module(module), name).__doc__) == its


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_equations_are_named_by_the_numbers_of_the_list(path: Path) -> None:
    if path.parts[0] != "tests":  # which speak of wrong ones too
        assert not list(mistakes(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "text",
    [
        "The reward R(A) of each trajectory (eq 12).",
        "| eq 12 | whose cross entropy is in the reward | `rl.credit` |",
        "R(A)   = -CE(target, P(. | h_L)) - lambda * l_n / L             eq 10",
        "J      = E[R(A)]                                               eq 13",
        "L_reg      = KL(P1 || P2)                                      eq 8",
        "The loss whose gradient is that of the objective (eq 14)",
        "the controller, a head on the adapter (eq 9)",
        "the adapter's bottleneck (eq 6)",
        "cross entropy (eq 3)",
        "REINFORCE on the controllers (eqs 10-12)",
        "skip pretraining: students and a teacher (eqs 6-8)",
        "the spread over samples (eqs 13-14)",
        "standard deviation over samples (eq 16)",
    ],
)
def test_a_wrong_number_is_found(text: str) -> None:
    assert list(mistakes(text))
