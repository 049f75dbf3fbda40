"""How often each kind of fault is tried: a few times in `make test`, for a share of 20 minutes in `make torture`."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.helpers.workspace import parameters
from tests.torture.fork import run, stage

TALLY = os.environ.get("DLSKIP_TORTURE")  # the folder that `make torture` counts in
SEED = int(os.environ.get("DLSKIP_TORTURE_SEED", "0"))
# Of each of the two workers, for what is tried; the rest of the 20 minutes makes what is needed for it
SECONDS = float(os.environ.get("DLSKIP_TORTURE_SECONDS", "900"))
SMALL = {
    "evaluate__batches": ["per_sample"], "evaluate__thresholds": [0.5], "evaluate__shares": [0.5], "grid__borrowed": [],
    "grid__ablations": [], "finetune__train__steps": 6, "prepare__train": 24, "prepare__train_mt": 16,
    "prepare__nlu": ["entailment"],
}  # fmt: skip
CELL = {"backbone": "tiny-llama", "seed": 0}
STAGES = {
    "backbone": {"backbone": "tiny-llama"}, "prepare": {}, "finetune": CELL, "adapter_init": CELL,
    "skip_pretrain": CELL, "rl": CELL, "mixer": CELL, "train_baselines": {"method": "static", "share": 0.5, **CELL},
    "baselines": {"method": "shortgpt", **CELL}, "evaluate": {"method": "ours", "kind": "nlu", **CELL}, "results": {},
}  # fmt: skip
OUTS = {
    "backbone": "models", "prepare": "data", "finetune": "artifacts/vanilla", "rl": "artifacts/rl",
    "mixer": "artifacts/ours", "train_baselines": "artifacts/static", "baselines": "artifacts/shortgpt",
    "evaluate": "evaluations", "results": "reports", "adapter_init": "artifacts/adapter_init",
    "skip_pretrain": "artifacts/skip_pretrain",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("torture")


class Trials:
    """Tries of one kind of fault, counted: with its ``share`` of the time, and how ``few`` there are in `make test`."""

    def __init__(self, kind: str, share: float, few: int) -> None:
        self.kind, self.share, self.few = kind, share, few
        self.tried, self.failures = 0, list[str]()

    def __iter__(self) -> Iterator[random.Random]:
        end = time.monotonic() + 2 * SECONDS * self.share
        while self.tried < self.few if TALLY is None else time.monotonic() < end or self.tried < self.few:
            yield random.Random(f"{SEED}/{self.kind}/{self.tried}")
            self.tried += 1

    def hold(self, good: bool, what: Any) -> None:
        """Counts a try as held, or notes what it was."""
        if not good:
            self.failures.append(f"try {self.tried} of seed {SEED}: {what}")

    def failed(self) -> str:
        """Writes the count down, and says which tries have not held; empty if all have. A test ends with it."""
        if TALLY is not None:
            row = {"tried": self.tried, "held": self.tried - len({f.split(":")[0] for f in self.failures})}
            (Path(TALLY) / f"{self.kind}.json").write_text(json.dumps(row))
        return "\n\n".join(self.failures[:20])


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage of a tiny pipeline has run, one after the other."""
    folder = tmp_path_factory.mktemp("done")
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(json.loads(parameters("smoke", **SMALL).model_dump_json()), file)
    for name, options in STAGES.items():
        ended = run(stage(name, **options), folder)
        assert ended.code == 0, ended.said
    return folder


@pytest.fixture
def fresh(done: Path, tmp_path: Path) -> Callable[[], Path]:
    """Copies that folder, in place of the copy before."""

    def copy() -> Path:
        shutil.rmtree(tmp_path / "here", ignore_errors=True)
        return Path(shutil.copytree(done, tmp_path / "here", symlinks=True))

    return copy


def content(folder: Path) -> dict[str, bytes]:
    """What a stage wrote, without times and where it was run."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        timed = path.name == "provenance.json" or path.stem == "tokens_per_second" or path.suffix == ".xz"
        if not timed:
            lines = path.read_bytes().split(b"\n")
            kept = [line for line in lines if path.suffix != ".csv" or b"tokens_per_second" not in line]
            found[path.relative_to(folder).as_posix()] = b"\n".join(kept)
    return found
