"""From measurements over a grid of thresholds, or of prices, to the one that meets a budget or a bound on the drop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import bootstrap

from dlskip.calibration.risk import Floats, examples_needed, p_value, upper_bound
from dlskip.errors import DlskipError

RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class Measurements:
    """What n held-out examples gave at each of K settings of a knob.

    The guarantees are about examples drawn as these were, each decided for itself (batch policy ``per_sample``).

    Examples:
        >>> thresholds = np.array([1.0, 0.5])
        >>> losses = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # of three examples at each threshold
        >>> shares = np.array([[1.0, 1.0, 1.0], [0.7, 0.6, 0.8]])  # of the layers that each example ran
        >>> Measurements(thresholds, losses, shares, binary=True, quality="agreement", data_sha256="").n
        3

    Args:
        settings: (K,) float64, from the most conservative to the cheapest: thresholds strictly falling, prices rising.
        losses: (K, n) float64 in [0, 1], how much worse each example fares than at full depth. A gain counts as 0, so
            the risk ``E[(q_full - q_skipping)_+]`` is at least the drop in mean quality ``E[q_full - q_skipping]``.
        layers_run: (K, n) float64 in [0, 1], each example's share of layer applications that were run.
        binary: The loss can only be 0 or 1.
        quality: Name of q, e.g. ``agreement`` with full depth.
        data_sha256: Hash of the examples.
        knob: What the settings are.

    Raises:
        DlskipError: Shapes, order or ranges are not those above, or n < 2.
    """

    settings: Floats
    losses: Floats
    layers_run: Floats
    binary: bool
    quality: str
    data_sha256: str
    knob: Literal["threshold", "price"] = "threshold"

    def __post_init__(self) -> None:
        problem = None
        if self.losses.shape != self.layers_run.shape or self.losses.shape[:1] != self.settings.shape:
            problem = f"{self.settings.shape} settings, losses {self.losses.shape}, shares {self.layers_run.shape}"
        elif not self.settings.size or (np.diff(self.settings) * (-1 if self.knob == "threshold" else 1) <= 0).any():
            way = "thresholds must fall" if self.knob == "threshold" else "prices must rise"
            problem = f"{way} strictly, from the most conservative on"
        elif self.n < 2:
            problem = f"{self.n} examples are too few to measure anything"
        elif not all(((x >= 0) & (x <= 1)).all() for x in (self.losses, self.layers_run)):
            problem = "losses and shares lie in [0, 1]"
        elif self.binary and not np.isin(self.losses, (0, 1)).all():
            problem = "binary losses are 0 or 1"
        if problem:
            raise DlskipError(problem, where="calibration")

    @property
    def n(self) -> int:
        """Number of examples."""
        return int(self.losses.shape[1])


@dataclass(frozen=True)
class Calibration:
    """The chosen threshold and what is known of it; plain numbers and strings, kept in a checkpoint's configuration.

    Args:
        threshold, price: What ``Threshold`` takes; no price for controllers that are not conditioned on it.
        target: What was asked for: a share of ``layers_run`` or a ``max_drop`` of quality.
        limit: The value that was asked for.
        delta: 1 - delta is the confidence of every statement here.
        n: Number of held-out examples.
        layers_run: Mean over examples of the share of layers run; at full depth 1.
        layers_run_low, layers_run_high: Its bootstrap interval (over examples, percentile), for this threshold only.
        drop: Mean loss on the examples (``Measurements.losses``).
        drop_bound: With probability 1 - delta over the draw of the examples, the expected loss is at most this, the
            choice of the threshold taken into account.
        quality: What the loss is a loss of.
        data_sha256: Hash of the examples.
        seed: Seed of the bootstrap.
        dial: Each measured setting and the mean share of layers that it runs, for other budgets.
    """

    threshold: float
    price: float | None
    target: Literal["layers_run", "max_drop"]
    limit: float
    delta: float
    n: int
    layers_run: float
    layers_run_low: float
    layers_run_high: float
    drop: float
    drop_bound: float
    quality: str
    data_sha256: str
    seed: int
    dial: list[list[float]]


def for_budget(measured: Measurements, share: float, *, delta: float = 0.05, seed: int = 0) -> Calibration:
    """The threshold whose mean share of layers run is nearest to ``share`` from below.

    Its ``drop_bound`` holds for all thresholds at once (Bonferroni), so also for the one chosen.

    Examples:
        >>> chosen = for_budget(measured, 0.7)
        >>> chosen.threshold, round(chosen.layers_run, 2)
        (0.5, 0.7)

    Raises:
        DlskipError: No threshold runs so few layers.
    """
    _check("layers_run", share, delta)
    means = measured.layers_run.mean(axis=1)
    within = means <= share + 1e-9  # a mean of equal numbers may exceed them by a rounding error
    if not within.any():
        least = int(means.argmin())
        raise DlskipError(
            f"no {measured.knob} runs so few: the least is {means[least]:.3f}, at {measured.settings[least]:g}",
            where=f"layers_run {share:g}", mend="ask for more layers, measure cheaper settings, or train at a higher "
            "price of a layer (rl.price)",
        )  # fmt: skip
    chosen = int(np.where(within, means, -1).argmax())
    bound = upper_bound(measured.losses[chosen], delta / len(means), binary=measured.binary)
    return _calibration(measured, chosen, "layers_run", share, delta, bound, seed)


def for_quality(measured: Measurements, max_drop: float, *, delta: float = 0.05, seed: int = 0) -> Calibration:
    """The lowest threshold for which P(E[loss] <= ``max_drop``) >= 1 - ``delta`` over the draw of the examples.

    Learn-then-test with fixed-sequence testing (Angelopoulos et al. 2021, section 2; as in CALM, Schuster et al.
    2022): from the most conservative threshold on, each is tested at level ``delta`` until one is not certified. The
    order is fixed before the data are seen, so all certified ones hold at once, however many were tested.

    Examples:
        >>> for_quality(measured, 0.2, delta=0.1).threshold
        0.5

    Raises:
        DlskipError: Not even the first is certified; says how many examples it would take, or that it loses too much.
    """
    _check("max_drop", max_drop, delta)
    tests = [p_value(losses, max_drop, binary=measured.binary) <= delta for losses in measured.losses]
    certified = tests.index(False) if False in tests else len(tests)
    if not certified:
        raise _refusal(measured, max_drop, delta)
    return _calibration(measured, certified - 1, "max_drop", max_drop, delta, max_drop, seed)


def check_possible(n: int, max_drop: float | None, delta: float) -> None:
    """Whether so many examples could certify a bound, even if none loses anything: asked before they are measured.

    Examples:
        >>> check_possible(100, 0.05, 0.05)

    Raises:
        DlskipError: They could not, and how many could.
    """
    if n < 2:
        raise DlskipError(f"{n} example is too few to measure anything", where="calibration", mend="give more rows")
    if max_drop is not None:
        _check("max_drop", max_drop, delta)
        if n < examples_needed(max_drop, delta):
            raise _too_few(n, max_drop, delta)


def _too_few(n: int, max_drop: float, delta: float) -> DlskipError:
    return DlskipError(
        f"{n} examples cannot certify it at confidence {1 - delta:g}, even if none loses anything",
        where=f"max_drop {max_drop:g}",
        mend=f"measure at least {examples_needed(max_drop, delta)} examples, or ask for less",
    )


def _check(target: str, limit: float, delta: float) -> None:
    if not 0 < limit < 1:
        raise DlskipError(f"{limit:g} is not between 0 and 1", where=target)
    if not 0 < delta < 0.5:
        raise DlskipError(f"{delta:g} is not between 0 and 0.5", where="delta")


def _refusal(measured: Measurements, max_drop: float, delta: float) -> DlskipError:
    """Why nothing was certified."""
    first = measured.settings[0]
    drop = measured.losses[0].mean()
    where = f"max_drop {max_drop:g}"
    if measured.n < examples_needed(max_drop, delta):
        return _too_few(measured.n, max_drop, delta)
    message = f"even {measured.knob} {first:g} loses {drop:.4f} on average over {measured.n} examples"
    if drop < max_drop:
        needed = examples_needed(max_drop, delta, float(drop))
        return DlskipError(
            f"{message}, too near the limit to be certain", where=where,
            mend=f"measure about {needed} examples, or more conservative settings",
        )  # fmt: skip
    return DlskipError(message, where=where, mend="measure more conservative settings, or allow a larger drop")


def _calibration(
    measured: Measurements, chosen: int, target: Literal["layers_run", "max_drop"], limit: float, delta: float,
    drop_bound: float, seed: int,
) -> Calibration:  # fmt: skip
    shares = measured.layers_run[chosen]
    setting = float(measured.settings[chosen])
    priced = measured.knob == "price"
    interval = bootstrap(
        (shares,), np.mean, n_resamples=RESAMPLES, batch=100, confidence_level=1 - delta, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Calibration(
        threshold=0.5 if priced else setting, price=setting if priced else None, target=target, limit=limit,
        delta=delta, n=measured.n,
        layers_run=float(shares.mean()), layers_run_low=float(interval.low), layers_run_high=float(interval.high),
        drop=float(measured.losses[chosen].mean()), drop_bound=drop_bound, quality=measured.quality,
        data_sha256=measured.data_sha256, seed=seed,
        dial=np.stack([measured.settings, measured.layers_run.mean(axis=1)], axis=1).tolist(),
    )  # fmt: skip
