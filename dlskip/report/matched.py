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
from dlskip.report.stats import Drawn, Floats, estimate, less
from dlskip.report.view import View

CLOSE = 1e-6  # %: shares that count as the same


@dataclass(frozen=True)
class Curve:
    """Quality of a method's runs against the share of layers that each was measured to skip.

    Args:
        shares: By seed, in %, ascending, each once: (points,).
        quality: By seed, on every draw: (points, 1 + DRAWS).
    """

    shares: dict[int, Floats]
    quality: dict[int, Floats]

    def reaches(self, share: float) -> bool:
        """Whether every seed's measured range covers a share."""
        return bool(self.shares) and all(x[0] - CLOSE <= share <= x[-1] + CLOSE for x in self.shares.values())

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

    Args:
        view: One backbone.
        method: Any of ``view.methods``.
        tasks: Averaged over, shares and quality alike.
        batch: Another batch rule than the method's default.
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


def common(curves: Iterable[Curve]) -> tuple[float, float] | None:
    """The range of shares that every seed of every curve covers; curves without a seed (not run) do not count."""
    shares = [x for c in curves for x in c.shares.values()]
    low, high = max((x[0] for x in shares), default=0.0), min((x[-1] for x in shares), default=0.0)
    return (float(low), float(high)) if high - low > CLOSE else None


class Rival(NamedTuple):
    """A baseline read at ours' measured share: its quality there on every draw, empty if it does not get there."""

    method: str
    ran: bool
    there: Drawn


def rivals(view: View, tasks: Sequence[str]) -> list[Rival]:
    """Every baseline at the share that ours' headline run was measured to skip on these tasks; the best first."""
    measured = view.over(view.headline.ours, "skip_ratio", tasks)
    shares: dict[int, float] = dict(zip(measured.index.tolist(), measured.tolist(), strict=True))
    curves = {method: curve(view, method, tasks) for method in view.baselines}
    found = [Rival(method, bool(c.shares), c.at(shares)) for method, c in curves.items()]
    return sorted(found, key=lambda r: -estimate(r.there).value if r.there else np.inf)


def versus(view: View, tasks: Sequence[str], there: Mapping[int, Floats]) -> Drawn:
    """Ours' headline run less what another method reaches at its share."""
    return less(view.bootstrap.drawn(view.headline.ours, tasks), there)
