"""Paired bootstrap over test examples and training seeds, for macro F1 and BLEU; sacreBLEU's own test.

Every run over a task is scored on the same resamples of the task's examples, and every average over seeds takes the
same resamples of the seeds, so a difference of two runs is a difference on each resample (paired). All seeds answer
the same test rows, so the two are crossed: a draw takes some seeds and one set of examples for all of them. With one
seed only the examples vary. Draw 0 is the data as it is.

Macro F1 and BLEU are computed here a second time (``dlskip.evaluation.metrics`` has them from scikit-learn and
sacreBLEU): as weighted counts, so that a thousand resamples are one product of matrices. A test holds both to the same
values on draw 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from dlskip.data.tasks import TASKS
from dlskip.methods.settings import BatchRule, Setting

DRAWS = 1000
Floats = NDArray[np.float64]
Drawn = dict[int, Floats]  # by seed: a value on each draw, (1 + DRAWS,)


class Condition(NamedTuple):
    """One way to run a model: what a row of results is about, apart from task and metric."""

    method: str
    setting: Setting
    batch: BatchRule


class Estimate(NamedTuple):
    """A value with its 95 % bootstrap interval; a difference is written with its sign."""

    value: float
    low: float
    high: float
    is_difference: bool = False

    @property
    def covers_zero(self) -> bool:
        """Whether the interval contains zero: a difference that is not distinguishable from none."""
        return self.low <= 0 <= self.high

    def text(self, digits: int = 1) -> str:
        """Such as ``64.0 [61.2, 66.9]``, or ``+1.2 [−0.4, +2.9]``."""
        value, low, high = (
            signed(x, digits) if self.is_difference else f"{x:.{digits}f}" for x in (self.value, self.low, self.high)
        )
        return f"{value} [{low}, {high}]"


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign: ``+1.2``, ``−0.4``."""
    return f"{value:+.{digits}f}".replace("-", "−")


@lru_cache(maxsize=32)
def resamples(task: str, n: int) -> Floats:
    """How often each of n examples stands in each draw: (1 + DRAWS, n); the same for every run over the task."""
    rng = np.random.default_rng(zlib.crc32(task.encode()))
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return np.vstack([np.ones(n), drawn]).astype(float)


def seed_shares(seeds: int) -> Floats:
    """The weight of each seed in each draw, rows adding up to 1: (1 + DRAWS, seeds)."""
    return resamples("the seeds", seeds) / seeds


def pooled(drawn: Mapping[int, Floats]) -> Floats:
    """Mean over resampled seeds, on each draw: (1 + DRAWS,); NaN without a seed."""
    if not drawn:
        return np.full(1 + DRAWS, np.nan)
    by_seed = np.stack([drawn[seed] for seed in sorted(drawn)], axis=1)
    return np.asarray((seed_shares(len(drawn)) * by_seed).sum(axis=1))


def less(one: Mapping[int, Floats], other: Mapping[int, Floats]) -> Drawn:
    """The difference on each draw, seed by seed; a seed that one of them lacks is left out."""
    return {seed: one[seed] - other[seed] for seed in one if seed in other}


def estimate(drawn: Mapping[int, Floats], *, is_difference: bool = False) -> Estimate:
    """Mean over seeds with its interval."""
    draws = pooled(drawn)
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return Estimate(float(draws[0]), float(low), float(high), is_difference)


def difference(one: Mapping[int, Floats], other: Mapping[int, Floats]) -> Estimate:
    """``one`` less ``other``, over the seeds that both have."""
    return estimate(less(one, other), is_difference=True)


def macro_f1(predicted: Sequence[str], gold: Sequence[str], labels: Sequence[str], weights: Floats) -> Floats:
    """Macro F1 in % of each draw: (draws,). An answer that is no label is wrong for every label."""
    p, g = np.asarray(predicted, dtype=object), np.asarray(gold, dtype=object)
    hits = np.stack([(p == label) & (g == label) for label in labels], axis=1)
    either = np.stack([(p == label).astype(float) + (g == label) for label in labels], axis=1)
    both = weights @ either
    scores = np.divide(2 * (weights @ hits), both, out=np.zeros_like(both), where=both > 0)
    return np.asarray(100 * scores.mean(axis=1))


def _metric(target: str, *, sentence: bool = False) -> BLEU:
    return BLEU(tokenize="zh" if target == "zh" else "13a", effective_order=sentence)


def bleu(hypotheses: Sequence[str], references: Sequence[str], target: str, weights: Floats) -> Floats:
    """Corpus BLEU of each draw: (draws,), from the sentences' n-gram counts, with sacreBLEU's default smoothing."""
    metric = _metric(target, sentence=True)
    each = [metric.sentence_score(h, [r]) for h, r in zip(hypotheses, references, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in each], dtype=float)
    drawn, orders = weights @ counts, len(each[0].counts)
    right, total, said, reference = drawn[:, :orders], drawn[:, orders:-2], drawn[:, -2], drawn[:, -1]
    none = right == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(none, 1 / (2.0 ** np.cumsum(none, axis=1) * total), right / total)
        logs = np.where(total > 0, np.log(precision), -np.inf)
        brevity = np.where(said < reference, np.exp(1 - reference / said), 1.0)
        scores = 100 * brevity * np.exp(logs.mean(axis=1))
    return np.where(right.any(axis=1), scores, 0.0)


def paired_bleu(
    systems: Mapping[str, Sequence[str]], references: Sequence[str], target: str
) -> tuple[dict[str, float], str]:
    """p-values of sacreBLEU's paired bootstrap test of every further system against the first, and its signature.

    Equal scores have p = 1 (the test itself gives them the least p that it knows).
    """
    test = PairedTest(list(systems.items()), {"BLEU": _metric(target)}, [list(references)], "bs", DRAWS)
    signatures, scores = test()
    first, *others = scores["BLEU"]
    values = {name: result.p_value if result.score != first.score else 1.0
              for name, result in zip(list(systems)[1:], others, strict=True)}  # fmt: skip
    return values, str(signatures["BLEU"])


class Bootstrap:
    """Scores of one backbone's runs (``collect.PREDICTIONS``) on all draws, by seed; made when asked for, and kept."""

    def __init__(self, predictions: pd.DataFrame) -> None:
        self._texts: dict[tuple[Any, ...], dict[int, tuple[list[str], list[str]]]] = {}
        self._scores: dict[tuple[Any, ...], Drawn] = {}
        rows = predictions.sort_values("id", kind="stable")
        names = ["method", "setting", "batch", "task", "seed", "prediction", "gold"]
        for *key, seed, said, gold in rows[names].itertuples(index=False, name=None):
            texts = self._texts.setdefault(tuple(key), {}).setdefault(int(seed), ([], []))
            texts[0].append(str(said))
            texts[1].append(str(gold))

    def texts(self, run: Condition, task: str) -> dict[int, tuple[list[str], list[str]]]:
        """By seed: predictions and gold answers, in the order of the examples' ids."""
        return self._texts.get((*run, task), {})

    def drawn(self, run: Condition, tasks: Sequence[str]) -> Drawn:
        """Macro F1 in %, or BLEU, averaged over tasks, on each draw; only seeds that ran all of the tasks."""
        each = [self._drawn(run, task) for task in tasks]
        seeds = set.intersection(*map(set, each)) if each else set()
        return {seed: np.asarray(np.mean([scores[seed] for scores in each], axis=0)) for seed in sorted(seeds)}

    def _drawn(self, run: Condition, task: str) -> Drawn:
        key = (*run, task)
        if key not in self._scores:
            self._scores[key] = {seed: _score(task, *texts) for seed, texts in self.texts(run, task).items()}
        return self._scores[key]

    def mean(self, run: Condition, tasks: Sequence[str]) -> Estimate:
        """Average over tasks and seeds."""
        return estimate(self.drawn(run, tasks))

    def difference(self, run: Condition, other: Condition, tasks: Sequence[str]) -> Estimate:
        """``run`` less ``other``, averaged over tasks and over the seeds that both have, in points."""
        return difference(self.drawn(run, tasks), self.drawn(other, tasks))


def _score(task: str, said: list[str], gold: list[str]) -> Floats:
    weights, definition = resamples(task, len(said)), TASKS.get(task)
    if definition is not None and definition.kind == "mt":
        return bleu(said, gold, definition.languages[1], weights)
    truth = [g.casefold() for g in gold]
    labels = [x.casefold() for x in definition.labels] if definition else sorted(set(truth))
    return macro_f1([s.strip().casefold() for s in said], truth, labels, weights)
