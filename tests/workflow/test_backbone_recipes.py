"""The recipes of the paper's table 5, each on a tiny random model of its family: every stage, then the table itself.

The recipe is as it is but for the source of the model, for rows that lie in a folder instead of on the hub, and for the
length of its training: two steps of eight rows in every stage, since 4-bit weights are slow on a CPU.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from dlskip.data.tasks import TASKS
from dlskip.evaluation.evaluate import evaluate
from dlskip.models import artifact
from dlskip.report import collect, paper_tables
from dlskip.report.view import View
from dlskip.steps import mixer, pretrain, reinforce, supervised
from tests.helpers import workspace
from tests.helpers.effort import further

FAMILIES = {"gpt2-xl": "gpt2", "opt-1.3b": "opt", "falcon-7b": "falcon", "llama2-7b": "llama"}
STAGES = ("finetune", "adapter_init", "skip_pretrain", "rl", "mixer")
SHORT = {"steps": 2, "epochs": None, "batch": 8}
PUBLISHED = {"gpt2-xl": "GPT2-XL", "opt-1.3b": "OPT-1.3B", "falcon-7b": "Falcon-7B", "llama2-7b": "Llama2-7B-Chat"}


def write_rows(folder: Path, tasks: list[str]) -> None:
    """Rows in the hub's columns, more than a batch of them in training, and instructions."""
    for task in tasks:
        for split, count in (("train", 4), ("validation", 2), ("test", 2)):
            rows = [
                {field: f"{task} {split} {field} {i}" for field in TASKS[task].fields} | {"label": i % 2}
                for i in range(count)
            ]
            (folder / task).mkdir(parents=True, exist_ok=True)
            (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ({"instruction": f"Say {i}.", "input": "", "output": f"It is {i}."} for i in range(8))
    (folder / "alpaca").mkdir()
    (folder / "alpaca" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", ["falcon-7b", *further("falcon-7b", [name for name in FAMILIES if name != "falcon-7b"])]
)
def test_a_recipe_of_table_5_runs_on_a_tiny_model_of_its_family(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = workspace.parameters(recipe).grid.backbones
    changes = {f"backbones__{name}__source": f"tiny-{FAMILIES[recipe]}", "prepare__source": "jsonl",
               "prepare__path": str(tmp_path / "raw")}  # fmt: skip
    changes |= {f"{stage}__train__{key}": value for stage in STAGES for key, value in SHORT.items()}
    params = workspace.parameters(recipe, **changes)
    assert params.recipe == recipe and params.model.tune.mode == "qlora" and params.rl.train.packing == 1024
    write_rows(tmp_path / "raw", params.prepare.nlu)
    assert workspace.enter(tmp_path, monkeypatch, params) == name
    for step in (supervised.finetune, supervised.adapter_init, pretrain.skip_pretrain, reinforce.rl, mixer.mixer):
        step(params, name, workspace.SEED)
    for method in ("vanilla", "ours"):
        evaluate(params, method, "nlu", name, workspace.SEED)
    trained = json.loads((artifact.directory("ours", name, 0) / "provenance.json").read_text())
    assert trained["config"]["mixer"]["rollouts"] == 1 and trained["training"]["rows"] == 2 * 8
    table = paper_tables.per_backbone([View(collect.collect(params, Path()), name)]).frame()
    assert list(table["method"][:2]) == ["Vanilla", "Ours bs=1"] and len(table) == 2 + len(PUBLISHED)
    measured = table.iloc[:2].filter(regex="AVG|BEST")
    assert measured.shape == (2, 8) and all(not math.isnan(float(x)) for x in measured.to_numpy().ravel())
    assert f"paper, {PUBLISHED[recipe]}, on RTE, MRPC, CoLA, SST-2" in set(table["method"])
