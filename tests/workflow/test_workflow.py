"""The whole pipeline on tiny models, in a scratch copy of the working tree: `make smoke`, and what DVC promises."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
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


@dataclass
class Scratch:
    """A copy of the repository under git and DVC, with the recipe `smoke` applied."""

    root: Path
    log: str = ""
    stages: list[str] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}
        return kept | fixed | {"PATH": path}

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=self.root, env=self.env, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        )  # fmt: skip

    def run(self, *command: str, ok: bool = True) -> str:
        """Runs a command and returns all that it said."""
        process = self.start(*command)
        out, _ = process.communicate(timeout=600)
        assert (process.returncode == 0) == ok, out
        return out

    def dvc(self, *arguments: str, ok: bool = True) -> str:
        return self.run("dvc", *arguments, ok=ok)

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "state")

    def git_status(self) -> str:
        return self.run("git", "status", "--short")

    def hashes(self, folder: str) -> dict[str, str]:
        files = (p for p in sorted((self.root / folder).rglob("*")) if p.is_file())
        return {str(p.relative_to(self.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    def replace(self, old: str, new: str) -> None:
        """Edits params.yaml."""
        path = self.root / "params.yaml"
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in params.yaml"
        path.write_text(text.replace(old, new), encoding="utf-8")


def ran(log: str) -> list[str]:
    """Names of the cells that DVC ran, in order."""
    return re.findall(r"Running stage '([^']+)'", log)


def repro_with_progress(scratch: Scratch) -> str:
    """As `make repro` runs it, several stages at a time, without its plan; returns what all of them said."""
    process = scratch.start("python", "-m", "dlskip", "pipeline", "run", "--jobs", "2", "--no-plan")
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        print(line, end="", flush=True)
    assert process.wait() == 0, "".join(lines)
    return "".join(path.read_text(encoding="utf-8") for path in sorted((scratch.root / ".jobs").iterdir()))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
    made = Scratch(tmp_path_factory.mktemp("workflow") / "dlskip")
    listed = subprocess.run(
        ["git", "ls-files", "-zco", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        skip = name.startswith(("reports/", "dvc.lock")) or not (REPO / name).is_file()
        if not skip:
            (made.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, made.root / name)
    made.run("git", "init", "-q")
    made.run("git", "config", "user.name", "test")
    made.run("git", "config", "user.email", "test@localhost")
    made.run("python", "-m", "dlskip", "pipeline", "recipe", "smoke")
    made.commit()
    made.stages = made.dvc("stage", "list", "--name-only").split()
    made.log = repro_with_progress(made)
    untracked = made.git_status()
    assert untracked.split() == ["??", "dvc.lock", "??", "reports/"], untracked
    made.commit()
    yield made
    shutil.rmtree(made.root, ignore_errors=True)


def test_smoke_runs_every_stage(scratch):
    assert sorted(ran(scratch.log)) == sorted(scratch.stages)
    assert len(scratch.stages) == 46
    assert "Warning" not in scratch.log
    assert not list((scratch.root / ".resume").glob("*")), "finished runs leave no checkpoints"


def test_smoke_writes_the_reports(scratch):
    for name in REPORTS:
        assert (scratch.root / "reports" / name).stat().st_size > 50, name
    numbers = json.loads((scratch.root / "reports/metrics.json").read_text())
    assert {"ours", "random", "vanilla"} <= numbers.keys()
    assert numbers["vanilla"]["skip_ratio"] == 0
    page = (scratch.root / "reports/index.html").read_text()
    assert "Not run" not in page and "tiny-llama" in page
    provenance = json.loads((scratch.root / "artifacts/ours/tiny-llama-0/provenance.json").read_text())
    assert provenance["stage"] == "mixer" and provenance["config"]["rl"]["price"] == 0.3
    assert provenance["git_commit"] and provenance["git_dirty"] is False


def test_smoke_again_does_nothing(scratch):
    assert ran(scratch.dvc("repro")) == []
    assert "up to date" in scratch.dvc("status")
    assert scratch.git_status() == ""


def test_commands_that_show(scratch):
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
def test_bad_parameters_stop_with_one_message(scratch, old, new, message):
    before = scratch.hashes("artifacts")
    scratch.replace(old, new)
    try:
        said = scratch.run("python", "-m", "dlskip", "pipeline", "check", ok=False)  # as `make repro` begins
    finally:
        scratch.replace(new, old)
    assert said.startswith(f"error: params.yaml: {message}")
    assert said.count("\n") == 2 and "\n  mend: " in said
    assert scratch.hashes("artifacts") == before


def test_bad_parameter_in_repro_loses_nothing(scratch):
    before = scratch.hashes("artifacts")
    scratch.replace("entropy: 0.003", "entropy: -1")
    try:
        said = scratch.dvc("repro", "rl@tiny-llama-0", ok=False)
    finally:
        scratch.replace("entropy: -1", "entropy: 0.003")
    assert "error: params.yaml: rl.entropy" in said and "mend: " in said and "Traceback" not in said
    assert ran(scratch.dvc("repro")) == [], "results come back from the cache, nothing is trained again"
    assert scratch.hashes("artifacts") == before


def test_a_cell_that_cannot_run_says_why(scratch):
    for cell, message in {
        ("tiny-llama", "9"): "error: artifacts/",
        ("none", "0"): "error: params.yaml: backbones",
    }.items():
        said = scratch.run("python", "-m", "stages.rl", "--backbone", cell[0], "--seed", cell[1], ok=False)
        assert message in said and "\n  mend: " in said and "Traceback" not in said


def test_killed_stage_resumes_to_the_same_weights(scratch):
    cell, out = "finetune@tiny-llama-0", "artifacts/vanilla/tiny-llama-0/backbone"
    before = scratch.hashes(out)
    process = scratch.start("dvc", "repro", "-f", "-s", cell)
    resume, deadline = scratch.root / ".resume", time.monotonic() + 120
    while not list(resume.glob("finetune-*/state.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # DVC and the stage at once, as a power cut would
    process.communicate()
    assert not (scratch.root / out).exists() and list(resume.glob("finetune-*"))
    said = scratch.dvc("repro", "-f", "-s", cell)
    assert "finetune: going on from the checkpoint at step" in said
    assert scratch.hashes(out) == before
    assert not list(resume.glob("*"))
    scratch.run("git", "checkout", "-q", "--", ".")
    scratch.dvc("checkout", "-f", "-q")  # this run has a provenance of its own


@pytest.mark.parametrize(
    ("change", "new", "common"),
    [
        ("grid.seeds=[0, 1]", "-1", ["figures", "results"]),
        ("grid.backbones=[tiny-llama, tiny-gpt2]", "tiny-gpt2", ["figures", "prepare", "results"]),
        ("grid.timed=[vanilla, ours]", "none", ["figures"]),
        ("baselines.static.block=middle", "^train_baselines@|^baselines@", ["figures", "pretrain_static@tiny-llama-0"]),
        ("ablations.variants.no_mixer.start=skip_pretrain", "@no_mixer-tiny-llama-0", ["figures"]),
        ("prepare.test=4", "none", ["prepare"]),
        ("skip_pretrain.p=0.3", "skip_pretrain@", []),
        ("evaluate.traces=2", "^evaluate", []),
        ("speed.tokens=3", "speed@", []),
        ("figures.headline_threshold=0.4", "figures", []),
    ],
)
def test_a_change_marks_only_what_it_concerns(scratch, change, new, common):
    """What comes after a stale stage is not listed: it runs only if that stage's files change."""
    scratch.run("python", "-m", "dlskip", "pipeline", "recipe", "smoke", change)
    try:
        stages = scratch.dvc("stage", "list", "--name-only").split()
        stale = json.loads(scratch.dvc("status", "--json"))
    finally:
        scratch.run("git", "checkout", "-q", "--", "params.yaml")
    assert sorted(stale) == sorted([*(s for s in stages if re.search(new, s)), *common])


def test_a_queued_sweep_runs_every_value(scratch):
    """README's sweep, over a grid of two methods to save time."""
    fewer = ("own=[vanilla, ours]", "baselines=[]", "trained=[]", "ablations=[]", "timed=[ours]")
    scratch.dvc(
        "exp", "run", "--queue", "-S", "rl.price=0.25,0.35", *(x for key in fewer for x in ("-S", f"grid.{key}"))
    )
    scratch.dvc("exp", "run", "--run-all")
    shown = list(csv.DictReader(io.StringIO(scratch.dvc("exp", "show", "--csv"))))
    swept = {row["rl.price"]: row for row in shown if row["typ"] != "baseline"}
    assert {"0.25", "0.35"} <= swept.keys()
    assert all(float(swept[value]["ours.nlu_f1"]) >= 0 for value in ("0.25", "0.35"))
    scratch.dvc("exp", "remove", "-A")
    assert scratch.git_status() == "", "the working tree is as it was"


def test_experiment_reruns_what_depends_on_its_parameter(scratch):
    log = scratch.dvc("exp", "run", "-S", "rl.price=0.2")
    affected = (
        "rl@",
        "mixer@",
        "ablations_",
        "evaluate@ours",
        "evaluate_ablations@",
        "speed@ours",
        "results",
        "figures",
    )
    assert sorted(ran(log)) == sorted(s for s in scratch.stages if s.startswith(affected))
    assert "0.2" in scratch.dvc("params", "diff")
    assert len(scratch.dvc("exp", "list", "--name-only").split()) == 1
    assert "reports/metrics.json" in scratch.dvc("metrics", "diff")
