"""The whole pipeline on tiny models, in a scratch copy of the working tree: `make smoke`, and what DVC promises."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.scratch import Scratch, make, ran, repro

pytestmark = pytest.mark.workflow
REPORTS = [
    "results.csv",
    "layers.csv",
    "curves.csv",
    "metrics.json",
    "index.html",
    "tables/nlu.md",
    "figures/speed.svg",
]
SAME = ("*.safetensors", "plan.json", "curves.csv", "alarms.json")  # of an artifact; the rest says when it was made


def test_every_stage_runs(finished: tuple[Scratch, str]) -> None:
    scratch, log = finished
    stages = scratch.stages()
    assert sorted(ran(log)) == sorted(stages)
    assert len(stages) == 58
    assert "Warning" not in log
    assert not list((scratch.root / ".resume").glob("*")), "finished runs leave no checkpoints"


def test_the_reports_are_written(finished: tuple[Scratch, str]) -> None:
    root = finished[0].root
    for name in REPORTS:
        assert (root / "reports" / name).stat().st_size > 50, name
    numbers = json.loads((root / "reports/metrics.json").read_text())
    assert {"ours", "random", "vanilla"} <= numbers.keys()
    assert numbers["vanilla"]["skip_ratio"] == 0
    page = (root / "reports/index.html").read_text()
    assert "Not run" not in page and "tiny-llama" in page
    provenance = json.loads((root / "artifacts/ours/tiny-llama-0/provenance.json").read_text())
    assert provenance["stage"] == "mixer" and provenance["config"]["rl"]["price"] == 0.3
    assert provenance["git_commit"] and provenance["git_dirty"] is False


def test_again_does_nothing(scratch: Scratch) -> None:
    assert ran(scratch.dvc("repro")) == []
    assert "up to date" in scratch.dvc("status")
    assert scratch.git_status() == ""


def test_commands_that_show(scratch: Scratch) -> None:
    assert "ours.nlu_f1" in scratch.dvc("metrics", "show")
    scratch.dvc("metrics", "diff")
    scratch.dvc("plots", "show")
    page = (scratch.root / "dvc_plots" / "index.html").read_text()
    assert all(part in page for part in ('id = "reward"', '"field": "method"', "headline.svg"))
    assert "rl.price" in scratch.dvc("exp", "show", "--csv")
    assert scratch.git_status() == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("price: 0.3", "prcie: 0.3", "rl.prcie: unknown key, did you mean `price`?"),
        ("price: 0.3", "price: much", "rl.price: Input should be a valid number"),
        ("price: 0.3", "price: -1", "rl.price: Input should be greater than or equal to 0 (got -1)"),
        ("device: auto", "devise: auto", "devise: unknown key, did you mean `device`?"),
    ],
)
def test_bad_parameters_stop_with_one_message(scratch: Scratch, old: str, new: str, message: str) -> None:
    before = scratch.hashes("artifacts")
    scratch.replace(old, new)
    try:
        said = scratch.run("python", "-m", "dlskip", "pipeline", "check", ok=False)  # as `make repro` begins
    finally:
        scratch.replace(new, old)
    assert said.startswith(f"error: params.yaml: {message}")
    assert said.count("\n") == 2 and "\n  mend: " in said
    assert scratch.hashes("artifacts") == before


def test_bad_parameter_in_repro_loses_nothing(scratch: Scratch) -> None:
    before = scratch.hashes("artifacts")
    scratch.replace("entropy: 0.003", "entropy: -1")
    try:
        said = scratch.dvc("repro", "rl@tiny-llama-0", ok=False)
    finally:
        scratch.replace("entropy: -1", "entropy: 0.003")
    assert "error: params.yaml: rl.entropy" in said and "mend: " in said and "Traceback" not in said
    assert ran(scratch.dvc("repro")) == [], "results come back from the cache, nothing is trained again"
    assert scratch.hashes("artifacts") == before


@pytest.mark.parametrize(
    ("backbone", "seed", "message"),
    [("tiny-llama", "9", "error: artifacts/"), ("none", "0", "error: params.yaml: backbones")],
)
def test_a_cell_that_cannot_run_says_why(scratch: Scratch, backbone: str, seed: str, message: str) -> None:
    said = scratch.run("python", "-m", "stages.rl", "--backbone", backbone, "--seed", seed, ok=False)
    assert message in said and "\n  mend: " in said and "Traceback" not in said


def test_killed_stage_resumes_to_the_same_weights(scratch: Scratch) -> None:
    """By plain `dvc repro`, whose stages start Python anew: their weights are those of the tests' run, too."""
    cell, out = "finetune@tiny-llama-0", "artifacts/vanilla/tiny-llama-0/backbone"
    before = scratch.hashes(out)
    process = scratch.start("dvc", "repro", "-f", "-s", cell, cold=True)
    resume, deadline = scratch.root / ".resume", time.monotonic() + 300
    while not list(resume.glob("finetune-*/state.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # DVC and the stage at once, as a power cut would
    process.communicate()
    assert not (scratch.root / out).exists() and list(resume.glob("finetune-*"))
    said = scratch.dvc("repro", "-f", "-s", cell, cold=True)
    assert "finetune: going on from the checkpoint at step" in said and "Warning" not in said
    assert scratch.hashes(out) == before
    assert not list(resume.glob("*"))
    scratch.run("git", "checkout", "-q", "--", ".")
    scratch.dvc("checkout", "-f", "-q")  # this run has a provenance of its own


@pytest.mark.exhaustive("one stage of it: test_killed_stage_resumes_to_the_same_weights")
def test_every_stage_does_the_same_in_a_process_of_its_own(finished: tuple[Scratch, str], tmp_path: Path) -> None:
    """Nothing depends on the process that the tests' stages are forked from."""
    cold = make(tmp_path / "dlskip", None)
    log = repro(cold)
    assert sorted(ran(log)) == sorted(cold.stages()) and "Warning" not in log
    ours, theirs = (
        {str(p.relative_to(s.root)): p.read_bytes() for name in SAME for p in (s.root / "artifacts").rglob(name)}
        for s in (finished[0], cold)
    )
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if _timeless(name, ours[name]) != _timeless(name, theirs[name])] == []


def _timeless(name: str, content: bytes) -> bytes:
    lines = content.splitlines()
    return b"\n".join(x for x in lines if b"tokens_per_second" not in x) if name.endswith(".csv") else content
