"""The examples (`>>>`) in docstrings run, on a tiny model; every function that users are shown has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import dlskip
from dlskip.calibration import Measurements
from dlskip.models.tiny import tiny
from dlskip.skip import skipper_of
from tests.helpers.published import publish
from tests.helpers.sections import mixer, rl

MODULES = sorted(
    ".".join(path.with_suffix("").parts)
    for path in Path("dlskip").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
STANDS_FOR = ("smollm2-135m", "artifacts/ours/smollm2-0")  # what examples load; a tiny artifact stands for both
SHOWN = re.compile(r"^::: ([\w.]+)(?:\n +options: \{members: \[([\w, ]+)\]\})?", re.MULTILINE)


def shown() -> Iterator[tuple[str, Any]]:
    """The functions that users call or that the API pages list, and the policies, by name."""
    for name in dlskip.__all__:
        yield name, getattr(dlskip, name)
    for page in sorted(Path("docs/api").glob("*.md")):
        for name, members in SHOWN.findall(page.read_text(encoding="utf-8")):
            module = importlib.import_module(name)
            own = [n for n, found in vars(module).items() if getattr(found, "__module__", "") == name and n[0] != "_"]
            for member in members.split(", ") if members else own:
                yield f"{name}.{member}", getattr(module, member)
    for name in importlib.import_module("dlskip.skip").__all__:
        if name != "Deciders":  # the pipeline makes it
            yield f"dlskip.skip.{name}", getattr(importlib.import_module("dlskip.skip"), name)


def has_example(thing: Any) -> bool:
    return ">>> " in (inspect.getdoc(thing) or "")


def test_every_function_that_is_shown_has_an_example() -> None:
    wanted = {name: thing for name, thing in shown() if inspect.isfunction(thing) or name.startswith("dlskip.skip.")}
    wanted.pop("dlskip.report.paper_tables.variance")  # draws from the records of a whole run
    assert {"from_pretrained", "dlskip.skip.model.attach", "dlskip.training.losses.reward"} <= set(wanted)
    assert not [name for name, thing in wanted.items() if not has_example(thing)]


@pytest.fixture
def names(tmp_path: Path, skipping: Any, ragged: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What examples use without making it: a loaded model and its skipper, a tokenizer, a prompt, measurements, ..."""
    monkeypatch.chdir(tmp_path)
    model = dlskip.from_pretrained(publish(tmp_path, skipping).artifact, threshold=0.5)
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    losses, shares = np.zeros((2, 30)), np.vstack([np.ones(30), np.full(30, 0.7)])
    measured = Measurements(np.array([1.0, 0.5]), losses, shares, True, "agreement", "")
    inputs = tokenizer("The dog sees the house.", return_tensors="pt")
    return {
        "dlskip": dlskip, "model": model, "skipper": skipper_of(model), "tokenizer": tokenizer, "inputs": inputs,
        "measured": measured, "batch": ragged((3, 2), (4, 3)), "rl_section": rl(), "mixer_section": mixer(),
    }  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str, names: dict[str, Any], tmp_path: Path) -> None:
    tests = [test for test in doctest.DocTestFinder().find(importlib.import_module(module)) if test.examples]
    assert tests
    for test in tests:
        test.globs |= names | {"backbone": tiny("llama")}  # a plain one for each, since it may be wrapped
        for example in test.examples:
            for name in STANDS_FOR:
                example.source = example.source.replace(name, str(tmp_path / "artifacts" / "ours" / "tiny-0"))
        said: list[str] = []
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
        assert not said, "".join(said)
