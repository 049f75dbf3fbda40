"""Methods at equal cost: quality at the same share of layers skipped, and the area under quality against that share.

The settings of two methods skip different shares, so their averages over settings compare nothing. Here a method is a
curve through its measured points. What is read off a curve is a weighted sum of its points, hence known on every
bootstrap draw. Shares are taken as measured: they are not resampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dlskip.methods.settings import BatchRule
from dlskip.report.stats import Drawn, Floats, estimate
from dlskip.report.view import View

CLOSE = 1e-6  # %: shares that count as the same


@dataclass(frozen=True)
class Curve:
    """Quality of a method's runs against the share of layers that each was measured to skip."""

    shares: dict[int, Floats]  # by seed, in %, ascending, each once: (points,)
    quality: dict[int, Floats]  # by seed, on every draw: (points, 1 + DRAWS)

    @property
    def ran(self) -> bool:
        """Whether there is a point beside the one with nothing skipped."""
        return bool(self.shares)

    @property
    def span(self) -> tuple[float, float]:
        """The shares that every seed's measured range covers, from and to; for a curve that ran."""
        return max(float(x[0]) for x in self.shares.values()), min(float(x[-1]) for x in self.shares.values())

    def reaches(self, share: float) -> bool:
        """Whether every seed's measured range covers a share."""
        return self.ran and self.span[0] - CLOSE <= share <= self.span[1] + CLOSE

    def at(self, share: float | Mapping[int, float]) -> Drawn:
        """Quality at a share (or at one per seed), linear between the measured points around it.

        Empty if some seed does not reach it.
        """
        wanted = share if isinstance(share, Mapping) else dict.fromkeys(self.shares, share)
        seeds = [seed for seed in self.shares if seed in wanted]
        if not all(self.shares[s][0] - CLOSE <= wanted[s] <= self.shares[s][-1] + CLOSE for s in seeds):
            return {}
        return {s: _hats(self.shares[s], np.array([wanted[s]]))[0] @ self.quality[s] for s in seeds}

    def area(self, low: float, high: float) -> Drawn:
        """The area under the curve from ``low`` to ``high``, over its width: the mean quality on the way."""
        result = {}
        for seed, shares in self.shares.items():
            inner = shares[(shares > low) & (shares < high)]
            knots = np.array([low, *inner, high])
            hats = _hats(shares, knots)
            weights = np.diff(knots) @ (hats[1:] + hats[:-1]) / 2 / (high - low)
            result[seed] = weights @ self.quality[seed]
        return result


def _hats(shares: Floats, at: Floats) -> Floats:
    """The weight of each point in the interpolated value at each place: (places, points), rows adding up to 1."""
    return np.stack([np.interp(at, shares, unit) for unit in np.eye(len(shares))], axis=1)


def curve(view: View, method: str, tasks: Sequence[str], batch: BatchRule | None = None) -> Curve:
    """A method's curve of the average over tasks, from its start with nothing skipped through all of its settings.

    ``batch``: another batch rule than the method's default.
    """
    batch = batch or view.batch_of(method)
    begin, runs = view.start(method), view.conditions(method, batch)
    if begin.method == method:
        begin = begin._replace(batch=batch)
    points: dict[int, dict[float, list[Floats]]] = {}
    ran: set[int] = set()  # a start alone is no curve
    for run in dict.fromkeys([begin, *runs]):
        shares, drawn = view.over(run, "skip_ratio", tasks), view.bootstrap.drawn(run, tasks)
        for seed in (s for s in drawn if s in shares.index):
            points.setdefault(seed, {}).setdefault(round(float(shares[seed]), 6), []).append(drawn[seed])
            if run in runs:
                ran.add(seed)
    ordered = {seed: sorted(of_seed.items()) for seed, of_seed in sorted(points.items()) if seed in ran}
    return Curve(
        {seed: np.array([share for share, _ in pairs]) for seed, pairs in ordered.items()},
        {seed: np.stack([np.mean(draws, axis=0) for _, draws in pairs]) for seed, pairs in ordered.items()},
    )


def curves(view: View, tasks: Sequence[str]) -> dict[str, Curve]:
    """The curve of every method of the main tables that skips layers."""
    return {method: curve(view, method, tasks) for method in view.skipping}


def common(curves: Iterable[Curve]) -> tuple[float, float] | None:
    """The range of shares that every seed of every curve covers; curves without a seed (not run) do not count."""
    spans = [c.span for c in curves if c.ran]
    low, high = max((x[0] for x in spans), default=0.0), min((x[1] for x in spans), default=0.0)
    return (low, high) if high - low > CLOSE else None


class Rival(NamedTuple):
    """A baseline read at ours' measured share: its quality there on every draw, empty if it does not get there."""

    method: str
    ran: bool
    there: Drawn


def rivals(view: View, tasks: Sequence[str]) -> list[Rival]:
    """Every baseline at the share that ours' headline run was measured to skip on these tasks; the best first."""
    measured = view.over(view.headline.ours, "skip_ratio", tasks)
    shares: dict[int, float] = dict(zip(measured.index.tolist(), measured.tolist(), strict=True))
    found = [Rival(m, its.ran, its.at(shares)) for m in view.baselines for its in [curve(view, m, tasks)]]
    return sorted(found, key=lambda r: -estimate(r.there).value if r.there else np.inf)
