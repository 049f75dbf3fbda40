"""Questions that tables, figures and page ask of the results of one backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dlskip.data.tasks import TASKS
from dlskip.methods.settings import (
    FULL,
    KNOBS,
    PER_SAMPLE,
    BatchRule,
    Setting,
    batch_rules,
    from_columns,
    headline_rule,
    prices,
    shares,
    thresholds,
)
from dlskip.report.collect import Collected
from dlskip.report.stats import Bootstrap, Condition

VANILLA = Condition("vanilla", FULL, PER_SAMPLE)
TIMED = "timing"  # the "task" of speed measurements
_PERCENT = (
    "f1_macro", "accuracy", "f1", "mcc", "invalid_rate", "skip_ratio", "skip_prefill", "skip_decode",
)  # fmt: skip
SCALE = dict.fromkeys(_PERCENT, 100.0)
MIN_SKIP = 25.0  # %, of the headline setting


def title(task: str) -> str:
    """A task's name for people."""
    return TASKS[task].title if task in TASKS else task


def short(task: str) -> str:
    """A task's name without the remark in brackets."""
    return title(task).split(" (")[0]


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

    @property
    def same_rows(self) -> bool:
        """Whether it was chosen on the very rows that it is reported on."""
        return self.chosen_on == "test"


class Point(NamedTuple):
    """A run in a chart: share of layers skipped in %, quality averaged over seeds, and its spread (0 for one seed)."""

    condition: Condition
    skipped: float
    quality: float
    std: float


class View:
    """One backbone's results.

    ``methods`` are those of the grid in its order, with ``random`` after ``ours``; ``ablations`` are among them.

    Values are in % (BLEU and chrF as they are, speed-up as a factor) and come as a Series indexed by seed, with the
    seeds that ran; empty if none did.
    """

    def __init__(self, found: Collected, backbone: str) -> None:
        params = found.params
        self.backbone, self.found = backbone, found
        self.nlu, self.mt = params.prepare.nlu, params.prepare.mt
        self.tasks = [*self.nlu, *self.mt]
        self.thresholds, self.shares = thresholds(params.evaluate.thresholds), shares(params.evaluate.shares)
        self.prices, self.batches = prices(params.evaluate.prices), batch_rules(params)
        self.methods = [m for named in params.grid.methods for m in ([named, "random"] if named == "ours" else [named])]
        self.ablations = [m for m in self.methods if m in params.grid.ablations]
        prices_of = {
            name: params.ablations.variants[name].set.get("model", {}).get("prices") for name in self.ablations
        }
        self.priced = [name for name, prices in prices_of.items() if prices]
        rows = found.results[found.results["backbone"] == backbone]
        reported = rows["split"] == params.evaluate.split
        self._values, self._validation = _values(rows[reported]), _values(rows[~reported])
        self.layers = found.layers[found.layers["backbone"] == backbone]
        self.curves = found.curves[found.curves["backbone"] == backbone]
        self.n = {str(task): int(n) for task, n in rows[reported].groupby("task")["n"].max().items()}
        self.bootstrap = Bootstrap(found.predictions[found.predictions["backbone"] == backbone])
        self.headline = self._headline()

    def over(
        self, run: Condition, metric: str, tasks: Sequence[str], values: _Values | None = None
    ) -> pd.Series:  # fmt: skip
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

    def quality(self, task: str) -> str:
        """The metric that judges a task."""
        return "bleu" if task in self.mt else "f1_macro"

    @property
    def compared(self) -> list[str]:
        """The methods of the main tables: all but the ablations."""
        return [m for m in self.methods if m not in self.ablations]

    @property
    def baselines(self) -> list[str]:
        """The methods that ours is compared with: all but vanilla, the control and ours with its ablations."""
        return [m for m in self.compared if m not in ("vanilla", "ours", "random")]

    @property
    def kinds(self) -> dict[str, list[str]]:
        """The groups of tasks whose average is shown, by name."""
        named = {"understanding": self.nlu, "translation": self.mt}
        return {name: tasks for name, tasks in named.items() if tasks}

    def settings(self, method: str) -> list[Setting]:
        """The settings that a method skips layers at: thresholds, prices, or the shares asked for."""
        if method == "vanilla":
            return [FULL]
        if method not in ("ours", "random", *self.ablations):
            return self.shares
        return self.prices if method in self.priced else self.thresholds

    def batch_of(self, method: str) -> BatchRule:
        """The batch rule that a method's quality is shown at."""
        return self.headline.ours.batch if method == "ours" else PER_SAMPLE

    def conditions(self, method: str, batch: BatchRule) -> list[Condition]:
        """A method's runs, over its settings."""
        return [Condition(method, setting, batch) for setting in self.settings(method)]

    def start(self, method: str) -> Condition:
        """What a method is with nothing skipped, where its curve begins.

        Its own unskipped run, where it has one: ours and the ablations have adapters of their own, and the random
        control has those of ours. Else vanilla, which the baselines drop layers of.
        """
        own = Condition("ours" if method == "random" else method, FULL, self.batch_of(method))
        learned = own.method in ("ours", *self.ablations)
        return own if learned or (*own, "skip_ratio") in self._values else VANILLA

    def points(self, method: str, tasks: Sequence[str], metric: str | None = None) -> list[Point]:
        """A method's runs that are there, and the one with nothing skipped, by the share that they skip."""
        if not tasks:
            return []
        found = []
        for run in dict.fromkeys([self.start(method), *self.conditions(method, self.batch_of(method))]):
            values = self.over(run, metric or self.quality(tasks[0]), tasks)
            if len(values):
                std = float(values.std()) if len(values) > 1 else 0.0
                found.append(Point(run, self.one(run, "skip_ratio", tasks), float(values.mean()), std))
        return sorted(found, key=lambda point: point.skipped)

    def nearest(self, method: str, skipped: float, tasks: Sequence[str]) -> Condition | None:
        """The run whose measured share is nearest to ``skipped`` (in %); None if there is none."""
        runs = self.conditions(method, self.batch_of(method))
        gaps = {run: abs(self.one(run, "skip_ratio", tasks) - skipped) for run in runs}
        ran = [run for run in runs if not math.isnan(gaps[run])]
        return min(ran, key=lambda run: gaps[run], default=None)

    def speed(self, run: Condition, metric: str) -> pd.Series:
        """A measurement of speed: ``speedup_*``, ``ms_*`` or ``skip_*`` of prefill and decode."""
        return self.over(run, metric, [TIMED])

    def speedup(self, run: Condition, tasks: Sequence[str]) -> pd.Series:
        """Measured speed-up in the phase that such tasks mostly consist of: prefill for answers, else decoding."""
        return self.speed(run, "speedup_decode" if set(tasks) <= set(self.mt) else "speedup_prefill")

    def _headline(self) -> Headline:
        """The configured threshold, or the best average quality among the settings that skip at least MIN_SKIP."""
        wanted = self.found.params.figures.headline_threshold
        batch, chosen_on = headline_rule(self.batches), "params"
        setting = Setting(threshold=wanted) if wanted is not None else None
        if setting is None:
            setting, chosen_on = self._chosen(self._validation, PER_SAMPLE), "validation"
        if setting is None:
            setting, chosen_on = self._chosen(self._values, batch) or self.thresholds[0], "test"
        return Headline(
            Condition("ours", setting, batch), Condition("random", setting, PER_SAMPLE), Condition("ours", FULL, batch),
            chosen_on,
        )  # fmt: skip

    def _chosen(self, values: _Values, batch: BatchRule) -> Setting | None:
        """The best threshold on some rows among those that skip at least MIN_SKIP, else the one that skips most."""
        tasks, metric = (self.nlu, "f1_macro") if self.nlu else (self.mt, "bleu")
        found = [
            (float(self.over(at, "skip_ratio", tasks, values).mean()), float(quality.mean()), at.setting)
            for at in self.conditions("ours", batch)
            if len(quality := self.over(at, metric, tasks, values))
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
        setting = from_columns(*knobs)
        for name, number in ((metric, value), ("skip_ratio", share)):
            tasks = values.setdefault((method, setting, batch, name), {})
            tasks.setdefault(task, {})[int(seed)] = number * SCALE.get(name, 1.0)
    return values
