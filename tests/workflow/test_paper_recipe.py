"""Recipe `paper` is the paper: what it gives, what FAITHFULNESS.md says undoes a deviation, and no other value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dlskip.workflow.recipe import differences
from tests.helpers import workspace

GIVEN = {  # paper, §4.1 to 4.3
    "model.tune.mode": "qlora", "model.tune.r": 16, "grid.seeds": [0, 1, 2, 3, 4], "prepare.prompts": "paper",
    "adapter_init.train.epochs": 1, "adapter_init.train.lr": 1e-4,
    "skip_pretrain.train.epochs": 5, "skip_pretrain.train.lr": 5e-5,
    "rl.train.epochs": 10, "rl.train.lr": 2e-5, "mixer.train.epochs": 5, "mixer.train.lr": 1e-5,
    **{f"{stage}.train.{key}": value for stage in ("adapter_init", "skip_pretrain", "rl", "mixer")
       for key, value in (("batch", 64), ("max_length", 1024), ("packing", 1024), ("steps", None))},
    "rl.sampling.m_start": 3, "evaluate.thresholds": [0.8, 0.7, 0.5, 0.4, 0.3],
    "evaluate.shares": [0.9, 0.7, 0.5, 0.3, 0.1],
}  # fmt: skip
# What is run on which rows, and how much of it is measured. No method depends on it.
SCALE = re.compile(
    r"recipe|grid\..*|backbones\..*|prepare\..*|evaluate\.(batches|max_new_tokens)|speed\..*|rl\.eval_(every|examples)"
)
# Trained without a word of how: as skip pretraining is.
UNSAID = ("finetune.train", "baselines.static.train", "baselines.pretrain_static.train")
NOT_RUN = "baselines.vanilla_long"
PAPER, DEFAULT = (workspace.parameters(name).model_dump() for name in ("paper", "embedded"))


def value(params: dict[str, Any], path: str) -> Any:
    for key in path.split("."):
        params = params[key]
    return params


def undone() -> dict[str, Any]:
    """What the table of deviations says undoes them: the keys of its last column."""
    table = Path("FAITHFULNESS.md").read_text(encoding="utf-8").split("## Deviations")[1].split("## Added")[0]
    columns = [row.split(" | ")[-1] for row in re.findall(r"^\| (?!-|what)(.*)$", table, re.MULTILINE)]
    pairs = [pair for column in columns for pair in re.findall(r"`([a-z_.]+): ([^`]+)`", column)]
    assert len(columns) > 20
    return {key: YAML(typ="safe", pure=True).load(text) for key, text in pairs}


@pytest.mark.parametrize(("key", "wanted"), [*GIVEN.items(), *undone().items()])
def test_it_has_what_the_paper_gives_and_undoes_every_deviation(key: str, wanted: Any) -> None:
    assert value(PAPER, key) == wanted


@pytest.mark.parametrize("section", UNSAID)
def test_what_the_paper_does_not_say_of_training_is_as_skip_pretraining(section: str) -> None:
    said_often = {"log_every": 1}  # how often it is logged is no part of the method
    assert value(PAPER, section) | said_often == value(PAPER, "skip_pretrain.train") | said_often


def test_all_else_keeps_the_default() -> None:
    """What it changes of the method is what the paper gives, or undoes a deviation that the table has."""
    named = undone()
    changed = [key for key in differences(DEFAULT, PAPER) if key not in GIVEN and not SCALE.fullmatch(key)]
    assert [key for key in changed if key not in named and not key.startswith((*UNSAID, NOT_RUN))] == []
    assert all(value(DEFAULT, key) != wanted for key, wanted in named.items()), "an option that undoes nothing"
