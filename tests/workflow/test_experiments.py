"""What a change of a parameter makes stale, and DVC's experiments with it; on a copy of the finished smoke run."""

from __future__ import annotations

import csv
import io
import re

import pytest

from dlskip.commands import main
from tests.helpers.scratch import Scratch, ran

pytestmark = pytest.mark.workflow
CHANGES = [
    ("grid.seeds=[0, 1]", "-1", ["figures", "results"]),
    ("grid.backbones=[tiny-llama, tiny-gpt2]", "tiny-gpt2", ["figures", "prepare", "results"]),
    ("grid.timed=[vanilla, ours]", "none", ["figures"]),
    ("baselines.static.block=middle", "^train_|^baselines@|^borrowed@", ["figures"]),
    ("ablations.variants.no_mixer.start=skip_pretrain", "@no_mixer-tiny-llama-0", ["figures"]),
    ("prepare.test=4", "none", ["prepare"]),
    ("skip_pretrain.p=0.3", "skip_pretrain@", []),
    ("evaluate.traces=2", "^evaluate", []),
    ("speed.tokens=3", "speed@", []),
    ("figures.headline_threshold=0.4", "figures", []),
]


@pytest.mark.parametrize(("change", "new", "common"), CHANGES, ids=[change for change, *_ in CHANGES])
def test_a_change_marks_only_what_it_concerns(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch, change: str, new: str, common: list[str]
) -> None:
    """What comes after a stale stage is not listed: it runs only if that stage's files change."""
    from dvc.repo import Repo

    monkeypatch.chdir(scratch.root)
    main(["pipeline", "recipe", "smoke", change])
    try:
        with Repo() as repo:
            stages = [stage.addressing for stage in repo.index.stages]
            stale = repo.status()
    finally:
        scratch.run("git", "checkout", "-q", "--", "params.yaml")
    assert sorted(stale) == sorted([*(s for s in stages if re.search(new, s)), *common])


def test_a_queued_sweep_runs_every_value(scratch: Scratch) -> None:
    """The sweep of docs/pipeline.md, over a grid of two methods to save time."""
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


@pytest.mark.exhaustive("what a change marks, and two experiments: the tests above")
def test_experiment_reruns_what_depends_on_its_parameter(scratch: Scratch) -> None:
    log = scratch.dvc("exp", "run", "-S", "rl.price=0.2")
    affected = (
        "rl@", "mixer@", "ablations_", "evaluate@ours", "evaluate_ablations@", "speed@ours", "results", "figures",
        "borrowed@", "evaluate_borrowed@unified_on_ours",
    )  # fmt: skip
    assert sorted(ran(log)) == sorted(s for s in scratch.stages() if s.startswith(affected))
    assert "0.2" in scratch.dvc("params", "diff")
    assert len(scratch.dvc("exp", "list", "--name-only").split()) == 1
    assert "reports/metrics.json" in scratch.dvc("metrics", "diff")
