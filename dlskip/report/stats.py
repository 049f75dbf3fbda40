"""Paired bootstrap over examples, for macro F1 and BLEU.

Every run over a task is scored on the same resamples of the task's examples, so a difference of two runs is a
difference on each resample (paired). Draw 0 is the data as it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU

from dlskip.data.tasks import TASKS

DRAWS = 1000
Floats = NDArray[np.float64]


class Run(NamedTuple):
    """One way to run a model: what a row of results is about, apart from task and metric."""

    method: str
    setting: str
    batch: str


class Estimate(NamedTuple):
    """A value with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def covers_zero(self) -> bool:
        """Whether the interval contains zero: a difference that is not distinguishable from none."""
        return self.low <= 0 <= self.high


def resamples(task: str, n: int) -> Floats:
    """How often each of n examples stands in each draw: (1 + DRAWS, n); the same for every run over the task."""
    rng = np.random.default_rng(zlib.crc32(task.encode()))
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return np.vstack([np.ones(n), drawn]).astype(float)


def macro_f1(predicted: Sequence[str], gold: Sequence[str], labels: Sequence[str], weights: Floats) -> Floats:
    """Macro F1 in % of each draw: (draws,). An answer that is no label is wrong for every label."""
    p, g = np.asarray(predicted, dtype=object), np.asarray(gold, dtype=object)
    scores = []
    for label in labels:
        hits, said, true = ((p == label) & (g == label)), p == label, g == label
        both = weights @ (said.astype(float) + true)
        scores.append(np.divide(2 * (weights @ hits), both, out=np.zeros(len(weights)), where=both > 0))
    return np.asarray(100 * np.mean(scores, axis=0))


def bleu(hypotheses: Sequence[str], references: Sequence[str], target: str, weights: Floats) -> Floats:
    """Corpus BLEU of each draw: (draws,), from the sentences' n-gram counts."""
    metric = BLEU(tokenize="zh" if target == "zh" else "13a", effective_order=True)
    each = [metric.sentence_score(h, [r]) for h, r in zip(hypotheses, references, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in each], dtype=float)
    orders = len(each[0].counts)
    return np.array(
        [
            BLEU.compute_bleu(
                list(row[:orders]), list(row[orders : 2 * orders]), int(row[-2]), int(row[-1]), smooth_method="exp"
            ).score
            for row in weights @ counts
        ]
    )  # fmt: skip


class Bootstrap:
    """Scores of every run over every task on all draws, averaged over seeds.

    Args:
        predictions: Rows of one backbone (``collect.PREDICTIONS``).
    """

    def __init__(self, predictions: pd.DataFrame) -> None:
        keys = ["method", "setting", "batch", "task"]
        self._rows = dict(iter(predictions.groupby(keys))) if len(predictions) else {}
        self._scores: dict[tuple[str, ...], Floats] = {}

    def scores(self, run: Run, task: str) -> Floats:
        """Macro F1 in %, or BLEU, of each draw: (1 + DRAWS,); NaN if the run is missing."""
        key = (*run, task)
        if key not in self._scores:
            self._scores[key] = self._score(key, task)
        return self._scores[key]

    def _score(self, key: tuple[str, ...], task: str) -> Floats:
        if key not in self._rows:
            return np.full(1 + DRAWS, np.nan)
        seeds = []
        for _, rows in self._rows[key].groupby("seed"):
            ordered = rows.sort_values("id")
            said, gold = ordered["prediction"].astype(str), ordered["gold"].astype(str)
            weights = resamples(task, len(ordered))
            definition = TASKS.get(task)
            if definition is not None and definition.kind == "mt":
                seeds.append(bleu(list(said), list(gold), definition.languages[1], weights))
            else:
                truth = [g.casefold() for g in gold]
                labels = [x.casefold() for x in definition.labels] if definition else sorted(set(truth))
                seeds.append(macro_f1([s.strip().casefold() for s in said], truth, labels, weights))
        return np.asarray(np.mean(seeds, axis=0))

    def mean(self, run: Run, tasks: Sequence[str]) -> Estimate:
        """Average over tasks."""
        return _estimate(np.mean([self.scores(run, t) for t in tasks], axis=0)) if tasks else _NONE

    def difference(self, run: Run, other: Run, tasks: Sequence[str]) -> Estimate:
        """``run`` less ``other``, averaged over tasks, in points."""
        if not tasks:
            return _NONE
        return _estimate(np.mean([self.scores(run, t) - self.scores(other, t) for t in tasks], axis=0))


_NONE = Estimate(np.nan, np.nan, np.nan)


def _estimate(draws: Floats) -> Estimate:
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return Estimate(float(draws[0]), float(low), float(high))
