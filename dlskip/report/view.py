"""Questions that tables, figures and page ask of the results of one backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dlskip.data.tasks import TASKS
from dlskip.methods import settings
from dlskip.methods.names import UNSKIPPED
from dlskip.methods.settings import FULL, KNOBS, PER_SAMPLE, BatchRule, Setting
from dlskip.report.collect import Collected
from dlskip.report.stats import Bootstrap, Condition

VANILLA = Condition("vanilla", FULL, PER_SAMPLE)
LONG = VANILLA._replace(method="vanilla_long")
TIMED = "timing"  # the "task" of speed measurements
_PERCENT = {"f1_macro", "accuracy", "f1", "mcc", "invalid_rate", "skip_ratio", "skip_prefill", "skip_decode"}
UNTIMED = ("random", "vanilla_long")  # they take as long as ours and vanilla
MIN_SKIP = 25.0  # %, of the headline setting


def short(task: str) -> str:
    """A task's name for people, without the remark in brackets."""
    return TASKS[task].title.split(" (")[0] if task in TASKS else task


def batch_label(batch: BatchRule) -> str:
    """``bs=8``, or ``per sample``."""
    return "per sample" if batch == PER_SAMPLE else f"bs={batch}"


@dataclass(frozen=True)
class Headline:
    """The setting that the headline speaks of, and what it was chosen on: ``params``, ``validation`` or test rows."""

    ours: Condition
    random: Condition
    full: Condition
    chosen_on: str


class TaskGroup(NamedTuple):
    """Understanding or translation, or one task of them: what is averaged, how it is judged, and which phase times it.

    ``score`` is the name of ``metric`` for people.
    """

    name: str
    tasks: list[str]
    metric: str
    score: str
    phase: str

    @property
    def label(self) -> str:
        """Such as ``understanding, mean of 5``; a task alone by its name."""
        return short(self.tasks[0]) if len(self.tasks) == 1 else f"{self.name}, mean of {len(self.tasks)}"

    @property
    def heading(self) -> str:
        """Such as ``Mean of 5 understanding tasks``; a task alone by its name."""
        return short(self.tasks[0]) if len(self.tasks) == 1 else f"Mean of {len(self.tasks)} {self.name} tasks"

    @property
    def axis(self) -> str:
        """The score with its unit."""
        return "macro F1, %" if self.metric == "f1_macro" else self.score


class Point(NamedTuple):
    """A run in a chart: share of layers skipped in %, quality averaged over seeds, and its spread (0 for one seed)."""

    condition: Condition
    skipped: float
    quality: float
    std: float


class View:
    """One backbone's results.

    ``methods`` are those of the grid in its order, with ``random`` after ``ours``; ``ablations`` are among them.
    ``compared`` are all others: ``unskipped`` those that run every layer, ``skipping`` the rest of them, and
    ``baselines`` those that ours is compared with at its share. ``timed`` are those whose speed is of interest.

    Values are in % (BLEU and chrF as they are, speed-up as a factor) and come as a Series indexed by seed, with the
    seeds that ran; empty if none did.
    """

    def __init__(self, found: Collected, backbone: str) -> None:
        params = found.params
        self.backbone, self.found = backbone, found
        self.nlu, self.mt = params.prepare.nlu, params.prepare.mt
        self.tasks = [*self.nlu, *self.mt]
        nlu = TaskGroup("understanding", self.nlu, "f1_macro", "macro F1", "prefill")
        mt = TaskGroup("translation", self.mt, "bleu", "BLEU", "decode")
        self.groups = [group for group in (nlu, mt) if group.tasks]  # whose averages are shown
        self.thresholds = settings.thresholds(params.evaluate.thresholds)
        self.batches = settings.batch_rules(params)
        self.timed_batches = [settings.rule_of(batch) for batch in params.speed.batches]
        self.methods = [m for named in params.grid.methods for m in ([named, "random"] if named == "ours" else [named])]
        self.ablations = [m for m in self.methods if m in params.grid.ablations]
        self.compared = [m for m in self.methods if m not in self.ablations]  # in the main tables
        self.unskipped = [m for m in self.compared if m in UNSKIPPED]
        self.skipping = [m for m in self.compared if m not in UNSKIPPED]
        self.timed = [m for m in self.compared if m not in UNTIMED]
        self.baselines = [m for m in self.skipping if m not in ("ours", "random")]
        variants = params.ablations.variants
        self.priced = [name for name in self.ablations if variants[name].set.get("model", {}).get("prices")]
        rows = found.results[found.results["backbone"] == backbone]
        reported = rows["split"] == params.evaluate.split
        self._values, self._validation = _values(rows[reported]), _values(rows[~reported])
        self.layers = found.layers[found.layers["backbone"] == backbone]
        self.curves = found.curves[found.curves["backbone"] == backbone]
        self.n = {str(task): int(n) for task, n in rows[reported].groupby("task")["n"].max().items()}
        self.bootstrap = Bootstrap(found.predictions[found.predictions["backbone"] == backbone])
        self.headline = self._headline()

    def over(self, run: Condition, metric: str, tasks: Sequence[str], values: _Values | None = None) -> pd.Series:
        """Mean over tasks (geometric for speed-ups), per seed; a seed that lacks a task is left out.

        ``values``: other ones than those of the rows that are reported on.
        """
        found = (self._values if values is None else values).get((*run, metric), {})
        each = [found.get(task, {}) for task in tasks]
        seeds = sorted(set.intersection(*map(set, each))) if each else []
        scores = np.array([[of_task[seed] for of_task in each] for seed in seeds])
        if not seeds:
            return pd.Series(dtype=float)
        means = np.exp(np.log(scores).mean(axis=1)) if metric.startswith("speedup") else scores.mean(axis=1)
        return pd.Series(means, index=pd.Index(seeds, name="seed")).dropna()

    def one(self, run: Condition, metric: str, tasks: Sequence[str]) -> float:
        """The same, averaged over seeds; NaN if not run."""
        return float(self.over(run, metric, tasks).mean())

    def metric(self, tasks: Sequence[str]) -> str:
        """The metric that judges such tasks."""
        return "bleu" if set(tasks) <= set(self.mt) else "f1_macro"

    def quality(self, run: Condition, tasks: Sequence[str]) -> pd.Series:
        """Quality by the metric of the tasks, per seed."""
        return self.over(run, self.metric(tasks), tasks)

    def share(self, run: Condition, tasks: Sequence[str]) -> float:
        """Measured share of layers skipped in %, averaged over tasks and seeds; NaN if not run."""
        return self.one(run, "skip_ratio", tasks)

    @property
    def groups_and_tasks(self) -> list[TaskGroup]:
        """The groups of several tasks, each with its tasks by themselves after it."""
        found = []
        for group in self.groups:
            found += [group] * (len(group.tasks) > 1) + [group._replace(tasks=[task]) for task in group.tasks]
        return found

    def settings(self, method: str) -> list[Setting]:
        """The settings that a method skips layers at: thresholds, prices, or the shares asked for."""
        if method in UNSKIPPED:
            return [FULL]
        if method not in ("ours", "random", *self.ablations):
            return settings.shares(self.found.params.evaluate.shares)
        return settings.prices(self.found.params.evaluate.prices) if method in self.priced else self.thresholds

    def batch_of(self, method: str) -> BatchRule:
        """The batch rule that a method's quality is shown at."""
        return self.headline.ours.batch if method == "ours" else PER_SAMPLE

    def batch_alone(self, method: str) -> BatchRule:
        """The batch rule that ablations are compared at: each row for itself, if ours was evaluated so."""
        return PER_SAMPLE if PER_SAMPLE in self.batches else self.batch_of(method)

    def against(self, method: str) -> str | None:
        """The method that an ablation differs from in one part; None for ours."""
        return None if method == "ours" else self.found.params.ablations.variants[method].against

    def conditions(self, method: str, batch: BatchRule) -> list[Condition]:
        """A method's runs, over its settings."""
        return [Condition(method, setting, batch) for setting in self.settings(method)]

    def every(self) -> list[Condition]:
        """Every run whose quality was measured: ours under each batch rule, and what learned with nothing skipped."""
        runs: list[Condition] = []
        for method in self.methods:
            for batch in self.batches if method == "ours" else [self.batch_of(method)]:
                full = [Condition(method, FULL, batch)] if method in ("ours", *self.ablations) else []
                runs += [*full, *self.conditions(method, batch)]
        return runs

    def start(self, method: str) -> Condition:
        """What a method is with nothing skipped, where its curve begins.

        Its own unskipped run, where it has one: ours and the ablations have adapters of their own, and the random
        control has those of ours. Else vanilla, which the baselines drop layers of.
        """
        own = Condition("ours" if method == "random" else method, FULL, self.batch_of(method))
        learned = own.method in ("ours", *self.ablations)
        return own if learned or (*own, "skip_ratio") in self._values else VANILLA

    def points(self, method: str, tasks: Sequence[str]) -> list[Point]:
        """A method's runs that are there, and the one with nothing skipped, by the share that they skip."""
        found = []
        for run in dict.fromkeys([self.start(method), *self.conditions(method, self.batch_of(method))]):
            if len(values := self.quality(run, tasks)):
                std = float(values.std()) if len(values) > 1 else 0.0
                found.append(Point(run, self.share(run, tasks), float(values.mean()), std))
        return sorted(found, key=lambda point: point.skipped)

    def nearest(self, method: str, skipped: float, tasks: Sequence[str]) -> Condition | None:
        """The run whose measured share is nearest to ``skipped`` (in %); None if there is none."""
        runs = self.conditions(method, self.batch_of(method))
        gaps = {run: abs(self.share(run, tasks) - skipped) for run in runs}
        ran = [run for run in runs if not math.isnan(gaps[run])]
        return min(ran, key=lambda run: gaps[run], default=None)

    def speed(self, run: Condition, metric: str) -> float:
        """A measurement of speed, averaged over seeds: ``speedup_*``, ``ms_*`` or ``skip_*`` of prefill and decode."""
        return self.one(run, metric, [TIMED])

    def speedup(self, run: Condition, tasks: Sequence[str]) -> float:
        """Measured speed-up in the phase that such tasks mostly consist of: prefill for answers, else decoding."""
        return self.speed(run, "speedup_decode" if set(tasks) <= set(self.mt) else "speedup_prefill")

    def _headline(self) -> Headline:
        """The configured threshold, or the best average quality among the settings that skip at least MIN_SKIP."""
        wanted, batch = self.found.params.figures.headline_threshold, settings.headline_rule(self.batches)
        choices = {
            "params": None if wanted is None else Setting(threshold=wanted),
            "validation": self._chosen(self._validation, PER_SAMPLE),
            "test": self._chosen(self._values, batch) or self.thresholds[0],
        }
        chosen_on, setting = next((on, setting) for on, setting in choices.items() if setting is not None)
        return Headline(
            Condition("ours", setting, batch), Condition("random", setting, PER_SAMPLE), Condition("ours", FULL, batch),
            chosen_on,
        )  # fmt: skip

    def _chosen(self, values: _Values, batch: BatchRule) -> Setting | None:
        """The best threshold on some rows among those that skip at least MIN_SKIP, else the one that skips most."""
        tasks = self.groups[0].tasks
        found = [
            (float(self.over(at, "skip_ratio", tasks, values).mean()), float(quality.mean()), at.setting)
            for at in self.conditions("ours", batch)
            if len(quality := self.over(at, self.metric(tasks), tasks, values))
        ]
        if enough := [(quality, setting) for share, quality, setting in found if share >= MIN_SKIP]:
            return max(enough, key=lambda pair: pair[0])[1]
        return max(found, key=lambda triple: triple[0])[2] if found else None


_Values = dict[tuple[Any, ...], dict[str, dict[int, float]]]  # by condition and metric, by task, by seed


def _values(rows: pd.DataFrame) -> _Values:
    """What was measured, in % where that is the unit."""
    values: _Values = {}
    names = ["method", "batch", "task", "seed", "metric", "value", "skip_ratio", *KNOBS]
    for method, batch, task, seed, metric, value, share, *knobs in rows[names].itertuples(index=False, name=None):
        setting = settings.from_columns(*knobs)
        for name, number in ((metric, value), ("skip_ratio", share)):
            tasks = values.setdefault((method, setting, batch, name), {})
            tasks.setdefault(task, {})[int(seed)] = number * (100 if name in _PERCENT else 1)
    return values
