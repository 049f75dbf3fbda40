"""What a run will take: trials are added up as the stages do their work, and the total is what a schedule takes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from dlskip import config
from dlskip.config import Params
from dlskip.methods.settings import PER_SAMPLE
from dlskip.workflow import plan as planning
from dlskip.workflow import recipe
from dlskip.workflow.estimate import NOT_TRIED, Cost, Estimator, Key, Trial
from dlskip.workflow.graph import Graph
from dlskip.workflow.plan import Plan, make_plan
from dlskip.workflow.progress import Progress
from tests.helpers import default

REPO = Path(__file__).resolve().parents[2]
DEFAULT = config.load_params(default.PARAMS)
CHAIN: Graph = {
    "backbone@smollm2": set(), "prepare": {"backbone@smollm2"}, "finetune@smollm2-0": {"prepare"},
    "adapter_init@smollm2-0": {"finetune@smollm2-0"}, "skip_pretrain@smollm2-0": {"adapter_init@smollm2-0"},
    "rl@smollm2-0": {"skip_pretrain@smollm2-0"}, "mixer@smollm2-0": {"rl@smollm2-0"},
    "ablations_mixer@no_mixer-smollm2-0": {"rl@smollm2-0"}, "borrowed@unified_on_ours-smollm2-0": {"mixer@smollm2-0"},
    "train_baselines@static-0.9-smollm2-0": {"finetune@smollm2-0"},
    "train_baselines@static-0.5-smollm2-0": {"finetune@smollm2-0"},
    "baselines@unified-smollm2-0": {"finetune@smollm2-0"},
    "evaluate@ours-nlu-smollm2-0": {"mixer@smollm2-0"},
    "evaluate@unified-mt-smollm2-0": {"baselines@unified-smollm2-0"},
    "speed@ours-smollm2-0": {"mixer@smollm2-0"}, "results": {"speed@ours-smollm2-0", "evaluate@ours-nlu-smollm2-0"},
    "figures": {"results"},
}  # fmt: skip
KINDS, SPLITS, POLICIES = ("nlu", "mt"), ("validation", "test"), ("full", "ours", "cut")


def counting(params: Params, **of: float) -> dict[Key, Trial]:
    """Trials in which loading takes 100 seconds, every step one, and every pass over a task's rows one."""
    sizes = [1, 8, 16]
    passes = {f"{k} {n} {p}": (float(of.get(p, 1)), 0.0) for k, n, p in itertools.product(KINDS, sizes, POLICIES)}
    work = {f"{k} {n} {s}": (1, 0) for k, n, s in itertools.product(KINDS, sizes, SPLITS)}
    keys = {key for name in CHAIN for key in Estimator(params).trials(name)}
    return {key: Trial(100, 1024, 2**20, 1.0, 7, passes, work) for key in keys}


def seconds(name: str, params: Params = DEFAULT, **of: float) -> float:
    return Estimator(params).cost(name, counting(params, **of), overhead=0).seconds


def test_every_stage_says_what_it_is_of_and_what_must_be_tried():
    estimator = Estimator(DEFAULT)
    assert estimator.split("evaluate@no_mixer-nlu-smollm2-0") == ("evaluate", "no_mixer-nlu", "smollm2")
    assert estimator.split("backbone@smollm2") == ("backbone", "", "smollm2")
    assert estimator.trials("prepare") == [("prepare", "", "smollm2")]
    assert estimator.trials("borrowed@unified_on_ours-smollm2-0") == [("plan", "unified", "smollm2")]
    assert estimator.trials("ablations_rl@no_mixer_no_sampling-smollm2-0") == [("rl", "", "smollm2")]
    assert estimator.trials("ablations_mixer@no_mixer-smollm2-0") == [], "a step that the variant leaves out"
    assert len(estimator.trials("train_baselines@static-0.7-smollm2-0")) == 2


def test_training_takes_as_many_steps_as_are_asked_for():
    assert seconds("rl@smollm2-0") == 107
    assert seconds("ablations_mixer@no_mixer-smollm2-0") == 0
    assert seconds("figures") == NOT_TRIED["figures"]


def test_the_vanilla_that_is_trained_as_long_takes_the_rows_of_ours_after_fine_tuning():
    """Of four stages, seven steps each, in batches of the fine-tuning."""
    mixer = DEFAULT.mixer.model_copy(update={"train": DEFAULT.mixer.train.model_copy(update={"batch": 16})})
    assert seconds("train_once@vanilla_long-smollm2-0") == 100 + 4 * 7
    assert seconds("train_once@vanilla_long-smollm2-0", DEFAULT.model_copy(update={"mixer": mixer})) == 100 + 5 * 7
    assert seconds("evaluate@vanilla_long-nlu-smollm2-0") == seconds("evaluate@vanilla-nlu-smollm2-0") == 101


def test_a_baseline_s_time_lies_between_those_of_the_least_and_the_most_layers():
    params = DEFAULT.model_copy(update={"evaluate": DEFAULT.evaluate.model_copy(update={"shares": [0.9, 0.5, 0.1]})})
    found = counting(params)
    found["train_baselines", "static-0.9", "smollm2"] = Trial(100, step=0.0, steps=7)
    cost = Estimator(params).cost("train_baselines@static-0.5-smollm2-0", found, overhead=1)
    assert cost.seconds == pytest.approx(1 + 100 + 3.5) and cost.memory == 1024


def test_evaluation_takes_as_many_passes_as_it_makes():
    """Full depth once a split; each threshold under each rule, on validation rows, and by chance."""
    config_ = DEFAULT.evaluate
    thresholds, rules = len(config_.thresholds), len(config_.batches)
    assert seconds("evaluate@ours-nlu-smollm2-0") == 100 + 2 + thresholds * (rules + 1 + 1)
    assert seconds("evaluate@ours-nlu-smollm2-0", ours=0) == 102
    assert PER_SAMPLE in config_.batches and config_.random_control


def test_shares_cut_a_pass_in_proportion():
    shares = DEFAULT.evaluate.shares
    cut = 100 + sum(1 - share / max(shares) for share in shares)
    assert seconds("evaluate@unified-mt-smollm2-0", cut=0) == pytest.approx(cut)


def test_timing_alternates_with_full_depth():
    speed, thresholds = DEFAULT.speed, len(DEFAULT.evaluate.thresholds)
    batches = [max(1, speed.rows // rows) for rows in (*speed.batches, DEFAULT.evaluate.per_sample_batch)]
    turns = 1 + speed.repeats * (1 + thresholds)  # a warm-up, then in turn
    assert seconds("speed@ours-smollm2-0") == 100 + sum(batches) * turns * 2


def planned(jobs: int, fresh: tuple[str, ...] = ()) -> Plan:
    costs = {name: Cost() if name in fresh else Cost(60.0, 1024.0, 2**20) for name in CHAIN}
    return Plan(CHAIN, costs, fresh, jobs, ("speed",))


def test_the_total_is_what_the_schedule_takes():
    one, two = (planned(jobs).simulate(planned(jobs).seconds, ()) for jobs in (1, 2))
    assert one == (60 * len(CHAIN), 1024)
    longest = 10  # backbone to figures, one after the other
    assert 60 * longest <= two[0] < one[0] and two[1] == 2048


def test_a_row_for_each_stage_and_the_total():
    lines = planned(1, ("backbone@smollm2", "prepare")).table().splitlines()
    cells = {line.split("  ")[0]: line.split() for line in lines[2:]}
    assert list(cells)[:3] == ["backbone", "prepare", "finetune"] and list(cells)[-1] == "all, 1 at a time"
    assert cells["prepare"][1:] == ["up", "to", "date", "0.0", "0.0", "0"]
    assert cells["train_baselines"][1:] == ["2", "of", "2", "2.0", "1.0", "2"]
    minutes = [float(row[-3]) for row in cells.values()]
    assert sum(minutes[:-1]) == minutes[-1] == len(CHAIN) - 2
    assert (
        "15 of 17 stages to run, 1 at a time: about 15:00, 1.0 GiB"
        in planned(1, ("backbone@smollm2", "prepare")).summary()
    )


def test_seconds_left_follow_what_finished_stages_took(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = planned(1)
    progress = Progress(len(CHAIN), plan)
    assert progress.forecast(plan, [], {}) == (0, 60 * len(CHAIN))
    Path(".jobs").mkdir()
    Path(".jobs", "prepare.log").write_text("Running stage 'prepare':\n")
    progress.ended("prepare", 240.0)  # four times as long as planned; the minute at the beginning counts as before
    worked, left = progress.forecast(plan, ["backbone@smollm2", "prepare"], {"finetune@smollm2-0": 75.0})
    assert worked == pytest.approx(120 + 30) and left == pytest.approx(2.5 * 60 * (len(CHAIN) - 2) - 75)
    progress.ended("rl@smollm2-0", 1.0)
    assert progress.taken == 300, "a stage that had nothing to do says nothing"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe `smoke`, with nothing made yet."""
    text = recipe.render("smoke", default.PARAMS.read_text(encoding="utf-8"), directory=REPO / "recipes")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_stages_own_code_is_tried_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = {
        name.replace("smollm2", "tiny-llama"): {need.replace("smollm2", "tiny-llama") for need in needs}
        for name, needs in CHAIN.items()
    }
    graph |= {"train_baselines@static-0.3-tiny-llama-0": graph.pop("train_baselines@static-0.9-tiny-llama-0")}
    plan = make_plan(graph, [], jobs=2, alone=("speed",))
    assert all(cost.seconds > 0 for cost in plan.costs.values())
    trained = plan.costs["mixer@tiny-llama-0"]
    assert trained.memory > 100 and trained.disk > 10_000
    assert not (tiny / "artifacts").exists() and [p.name for p in Path(".jobs").iterdir()] == ["trials.json"]

    def refuse(*_: Any) -> None:
        raise AssertionError("tried again")

    monkeypatch.setattr(planning, "try_out", refuse)
    assert make_plan(graph, [], jobs=2, alone=("speed",)) == plan, "what was measured is kept"
    nothing = make_plan(graph, list(graph), jobs=2, alone=("speed",))
    assert nothing.simulate(nothing.seconds, nothing.fresh) == (0, 0)

    asked: list[tuple[float, float, int]] = []
    monkeypatch.setattr(planning, "default_jobs", lambda: 2)  # as tried above
    monkeypatch.setattr(planning, "on_gpu", lambda: True)
    monkeypatch.setattr(planning, "gpu_memory", lambda: 80 * 2**30)
    monkeypatch.setattr(planning, "jobs_that_fit", lambda *found: asked.append(found) or 3)
    assert make_plan(graph, [], jobs=None, alone=("speed",)).jobs == 3, "on a GPU, what was measured decides"
    assert asked == [(max(cost.memory for cost in plan.costs.values()) * 2**20, 80 * 2**30, len(planning.cores()))]
    assert make_plan(graph, [], jobs=2, alone=("speed",)).jobs == 2, "unless the number is given"
