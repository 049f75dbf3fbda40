"""The vanilla that is trained as long as ours: as many tokens, within one batch, counted in the batches themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlskip.config import Params, Train
from dlskip.data.batches import Batches, encode
from dlskip.data.io import DATA, read_tasks
from dlskip.data.tasks import INSTRUCTIONS
from dlskip.errors import DlskipError
from dlskip.methods import baselines, registry
from dlskip.methods.settings import FULL
from dlskip.methods.vanilla_long import steps_for
from dlskip.models import artifact, backbone
from dlskip.training.loop import total_steps
from tests.helpers import workspace

STAGES = ("adapter_init", "skip_pretrain", "rl", "mixer")


def seen(params: Params, name: str, train: Train, tasks: list[str]) -> list[int]:
    """Input tokens of each step of a training run, as its batches hold them."""
    tokenizer = backbone.load_tokenizer(name, params.backbones[name])
    examples = encode(read_tasks(DATA, tasks, "train"), tokenizer, train.max_length)
    batches = Batches(examples, tokenizer.pad_token_id, train.batch, workspace.SEED)
    return [int(batches.at(step).attention_mask.sum()) for step in range(total_steps(train, len(examples)))]


@pytest.mark.slow
@pytest.mark.parametrize("init", ["finetune", "base"])
def test_its_tokens_are_those_of_all_stages_of_ours(init: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the stages differ in: epochs, batches, lengths, and whether ours starts from vanilla."""
    lengths = {"skip_pretrain__train__steps": None, "skip_pretrain__train__epochs": 0.4, "mixer__train__batch": 6,
               "rl__train__max_length": 60, "mixer__train__steps": 50}  # fmt: skip
    params = workspace.parameters(skip_pretrain__init=init, finetune__train__steps=10, **lengths)
    name = workspace.enter(tmp_path, monkeypatch, params)
    workspace.untrained(params, name, "vanilla")
    tasks = [*params.prepare.nlu, *params.prepare.mt]
    vanilla = seen(params, name, params.finetune.train, tasks)
    ours = sum(vanilla) if init == "finetune" else 0
    for stage in STAGES:
        here = [INSTRUCTIONS] if stage == "adapter_init" else tasks
        ours += sum(seen(params, name, getattr(params, stage).train, here))

    baselines.train_baseline_once(params, "vanilla_long", name, workspace.SEED)
    out = artifact.directory("vanilla_long", name, workspace.SEED)
    made = json.loads((out / "all" / "provenance.json").read_text())
    own = seen(params, name, Train.model_validate(made["config"]["train"]), tasks)
    assert len(own) == made["training"]["steps"] and sum(own) == made["training"]["tokens"]
    assert made["config"]["tokens"] == {"vanilla": sum(vanilla), "ours": ours}
    assert 0 <= sum(vanilla) + sum(own) - ours < own[-1], "within the last batch"
    assert made["config"]["train"]["lr"] == params.baselines.vanilla_long.lr

    baselines.make_baseline(params, "vanilla_long", name, workspace.SEED)
    (planned,) = registry.method("vanilla_long").settings(params, name, workspace.SEED)
    assert planned.setting == FULL and Path(planned.weights) == out / "all" and not planned.adapters
    weights = [artifact.weights_sha256(folder) for folder in (artifact.directory("vanilla", name, 0), out / "all")]
    assert weights[0] != weights[1]


@pytest.mark.parametrize("tokens", [1, 7, 60, 61, 500])
def test_steps_are_the_fewest_that_have_the_tokens(tokens: int, examples: Any) -> None:
    batches = Batches(examples((5, 2), (3, 3), (8, 1), (4, 4), (2, 2)), pad=2, batch=2, seed=0)
    steps = steps_for(batches, tokens)
    assert batches.tokens(steps) >= tokens > batches.tokens(steps - 1)


def test_it_is_refused_where_ours_sees_no_more_than_vanilla(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = workspace.parameters(skip_pretrain__init="base", finetune__train__steps=2000)
    name = workspace.enter(tmp_path, monkeypatch, params)
    with pytest.raises(DlskipError, match="there is nothing to go on with"):
        baselines.train_baseline_once(params, "vanilla_long", name, workspace.SEED)
