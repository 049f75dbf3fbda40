"""Questions that tables, figures and page ask of the results of one backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dlskip.data.tasks import TASKS
from dlskip.report.collect import Collected
from dlskip.report.stats import Bootstrap, Run

VANILLA = Run("vanilla", "full", "per_sample")
SCALE = {"f1_macro": 100.0, "accuracy": 100.0, "f1": 100.0, "mcc": 100.0, "invalid_rate": 100.0, "skip_ratio": 100.0}
MIN_SKIP = 25.0  # %, of the headline setting


def title(task: str) -> str:
    """A task's name for people."""
    return TASKS[task].title if task in TASKS else task


def short(task: str) -> str:
    """A task's name without the remark in brackets."""
    return title(task).split(" (")[0]


def batch_label(batch: str) -> str:
    """``bs=8``, or ``per sample``."""
    return "per sample" if batch == "per_sample" else f"bs={batch}"


@dataclass(frozen=True)
class Headline:
    """The setting that the headline speaks of; ``chosen`` = picked on the very rows that it is reported on."""

    ours: Run
    random: Run
    full: Run
    chosen: bool


class View:
    """One backbone's results.

    Values are in % (BLEU and chrF as they are, speed-up as a factor) and come as a Series indexed by seed, with the
    seeds that ran; empty if none did.
    """

    def __init__(self, found: Collected, backbone: str) -> None:
        params = found.params
        self.backbone, self.found = backbone, found
        self.nlu, self.mt = params.prepare.nlu, params.prepare.mt
        self.tasks = [*self.nlu, *self.mt]
        self.thresholds = [str(t) for t in params.evaluate.thresholds]
        self.batches = [str(b) for b in params.evaluate.batches]
        rows = found.results[found.results["backbone"] == backbone]
        self.layers = found.layers[found.layers["backbone"] == backbone]
        self.curves = found.curves[found.curves["backbone"] == backbone]
        skips = rows.drop_duplicates(["method", "seed", "setting", "batch", "task"])
        skips = skips.assign(metric="skip_ratio", value=skips["skip_ratio"])
        self.n = {str(task): int(n) for task, n in rows.groupby("task")["n"].max().items()}
        keys = ["method", "setting", "batch", "metric"]
        self._tables = {
            key: part.pivot_table(index="seed", columns="task", values="value") * SCALE.get(str(key[-1]), 1.0)
            for key, part in pd.concat([rows, skips]).groupby(keys)
        }
        self.bootstrap = Bootstrap(found.predictions[found.predictions["backbone"] == backbone])
        self.headline = self._headline()

    def over(self, run: Run, metric: str, tasks: Sequence[str]) -> pd.Series:
        """Mean over tasks (geometric for speed-ups), per seed; a seed that lacks a task is left out."""
        table = self._tables.get((*run, metric))
        if table is None or not tasks:
            return pd.Series(dtype=float)
        values = table.reindex(columns=list(tasks))
        if metric == "speedup":
            values = values.map(math.log)
            return values.mean(axis=1, skipna=False).dropna().map(math.exp)
        return values.mean(axis=1, skipna=False).dropna()

    def one(self, run: Run, metric: str, tasks: Sequence[str]) -> float:
        """The same, averaged over seeds; NaN if not run."""
        return float(self.over(run, metric, tasks).mean())

    def quality(self, task: str) -> str:
        """The metric that judges a task."""
        return "bleu" if task in self.mt else "f1_macro"

    def runs(self, method: str, batch: str) -> list[Run]:
        """A method's runs, over the thresholds."""
        return [Run(method, t, batch) for t in self.thresholds]

    def _headline(self) -> Headline:
        """The configured threshold, or the best average quality among the settings that skip at least MIN_SKIP."""
        wanted = self.found.params.figures.headline_threshold
        batch = "1" if "1" in self.batches else self.batches[0]
        tasks, metric = (self.nlu, "f1_macro") if self.nlu else (self.mt, "bleu")
        if wanted is not None:
            setting = str(wanted)
        else:
            runs = [r for r in self.runs("ours", batch) if not np.isnan(self.one(r, metric, tasks))]
            enough = [r for r in runs if self.one(r, "skip_ratio", tasks) >= MIN_SKIP]
            if enough:
                setting = max(enough, key=lambda r: self.one(r, metric, tasks)).setting
            elif runs:
                setting = max(runs, key=lambda r: self.one(r, "skip_ratio", tasks)).setting
            else:
                setting = self.thresholds[0]
        return Headline(
            Run("ours", setting, batch), Run("random", setting, "per_sample"), Run("ours", "full", batch),
            wanted is None,
        )  # fmt: skip
