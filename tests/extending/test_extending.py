"""What a reader adds: a method is one file and one name, a data set an entry of params.yaml and its rows.

Both are added to a copy of the package, made and evaluated by a process of its own on a tiny model, and must stand in
the report's table of settings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from dlskip.config import read_yaml
from tests.helpers import default

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]
EMPTY = ("baselines", "trained", "trained_once", "borrowed", "ablations", "timed")  # lists of the grid
METHOD = '''"""Every second layer, as far as the share asks for."""

from dlskip.methods.base import Method, for_shares

TITLE = "Every second layer"


class EverySecond(Method):
    name = "every_second"

    def on(self, params, backbone, weights, *, adapters=False):
        skips = lambda share, layers: list(range(1, layers - 1, 2))[: round(share * layers)]
        return for_shares(params, backbone, weights, skips, adapters=adapters)


METHOD = EverySecond()
'''
PIPELINE = """
import sys
from pathlib import Path
from dlskip.config import load_params
from dlskip.data.io import DATA
from dlskip.data.prepare import prepare
from dlskip.evaluation.evaluate import evaluate
from dlskip.methods import baselines
from dlskip.models import artifact, backbone, tuning
from dlskip.report import collect, tables
from dlskip.report.view import View

params, method = load_params(), sys.argv[1]
backbone.materialise("tiny", params.backbones["tiny"], backbone.MODELS / "tiny")
prepare(params.prepare, DATA)
model, _ = artifact.build_model(params, "tiny", weights=None, skipping=False)
tuning.save_tuned(model, artifact.directory("vanilla", "tiny", 0) / "backbone")
if method != "vanilla":
    baselines.make_baseline(params, method, "tiny", 0)
evaluate(params, method, "nlu", "tiny", 0)
tables.settings([View(collect.collect(params, Path()), "tiny")]).write(Path("tables"))
"""


def settings_table(scratch: Path, method: str, changes: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Runs the pipeline's functions in a copy of the package with changed parameters."""
    shutil.copytree(
        REPO / "dlskip", scratch / "dlskip", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )
    data = read_yaml(default.PARAMS)
    data["backbones"] = {"tiny": {"source": "tiny-llama"}}
    data["prepare"] |= {"mt": [], "train": 8, "validation": 4, "test": 4, "instructions": 2}
    data["evaluate"] |= {"shares": [0.5, 0.25]}
    data["grid"] |= {"backbones": ["tiny"], "own": ["vanilla"]} | {key: [] for key in EMPTY}
    for section, values in changes.items():
        data[section] |= values
    with (scratch / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(data, file)
    run = subprocess.run(
        [sys.executable, "-c", PIPELINE, method], cwd=scratch, env=os.environ | {"PYTHONPATH": str(scratch)},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return pd.read_csv(scratch / "tables" / "settings.csv")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "dlskip" / "methods").mkdir(parents=True)
    return tmp_path


def test_a_method_is_one_file_and_one_name(scratch: Path) -> None:
    (scratch / "dlskip" / "methods" / "every_second.py").write_text(METHOD)
    changes = {"grid": {"baselines": ["every_second"]}, "prepare": {"nlu": ["sentiment"]}}
    rows = settings_table(scratch, "every_second", changes).set_index(["method", "setting"])
    shares = rows.loc["Every second layer"]["Sentiment skipped"].astype(float)
    layers = json.loads((scratch / "models" / "tiny" / "config.json").read_text())["num_hidden_layers"]
    for setting, share in {"share 0.5": 0.5, "share 0.25": 0.25}.items():
        dropped = len(list(range(1, layers - 1, 2))[: round(share * layers)])
        assert shares[setting] == pytest.approx(100 * dropped / layers) and dropped


def test_its_stages_are_the_pipeline_s(scratch: Path) -> None:
    """The method's file, its name after the others in params.yaml, and nothing else: DVC has its stages."""
    subprocess.run(["git", "init", "-q"], cwd=scratch, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=scratch, check=True)
    shutil.copy(REPO / "dvc.yaml", scratch)
    text = default.PARAMS.read_text(encoding="utf-8")
    stages = []
    for added in ("", ", every_second"):
        (named,) = re.findall(r"^  baselines: \[[\w, ]+", text, re.MULTILINE)
        (scratch / "params.yaml").write_text(text.replace(named, named + added), encoding="utf-8")
        listed = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
        found = subprocess.run(listed, cwd=scratch, check=True, capture_output=True, text=True).stdout
        stages.append(set(found.split()))
    new = {
        "baselines@every_second-smollm2-0",
        *(f"evaluate_baselines@every_second-{k}-smollm2-0" for k in ("nlu", "mt")),
    }
    assert stages[1] - stages[0] == new and stages[0] < stages[1]


def test_a_data_set_is_an_entry_and_its_rows(scratch: Path) -> None:
    task = {
        "title": "Weather", "kind": "nlu", "prompt": "{place}: {report}\nWeather:", "fields": ["place", "report"],
        "labels": ["wet", "dry"], "metric": ["accuracy", "mcc"],
    }  # fmt: skip
    raw = scratch / "raw"
    for folder, split, count in (("weather", "train", 20), ("weather", "test", 6), ("weather", "validation", 4)):
        rows = [{"place": f"{split} {i}", "report": f"clouds {i}", "label": i % 2} for i in range(count)]
        (raw / folder).mkdir(parents=True, exist_ok=True)
        (raw / folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (raw / "alpaca").mkdir()
    told = {"instruction": "Say it.", "input": "", "output": "It."}
    (raw / "alpaca" / "train.jsonl").write_text(json.dumps(told) + "\n" + json.dumps(told | {"output": "So."}) + "\n")
    own = {"source": "jsonl", "path": "raw", "tasks": {"weather": task}, "nlu": ["weather"]}
    rows = settings_table(scratch, "vanilla", {"prepare": own})
    assert rows.set_index("method").loc["Vanilla", "Weather skipped"] == 0
    first = json.loads((scratch / "data/prepared/weather/test.jsonl").read_text().splitlines()[0])
    assert first["prompt"].endswith("\nWeather:") and first["target"] in (" wet", " dry")
    measured = pd.read_csv(scratch / "evaluations/vanilla/tiny-0/nlu/rows.csv")
    assert {"f1_macro", "accuracy", "mcc"} <= set(measured["metric"]) and set(measured["n"]) == {4}
