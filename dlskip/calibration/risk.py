"""What n losses in [0, 1] say of their expectation, the risk, whatever their distribution.

All that is assumed is that the examples are independent draws from one distribution.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import rel_entr
from scipy.stats import binom

Floats = NDArray[np.float64]


def divergence(a: float, b: float) -> float:
    """Kullback-Leibler divergence of Bernoulli(a) from Bernoulli(b), in nats.

    Examples:
        >>> round(divergence(0.0, 0.5), 3)  # log 2
        0.693
    """
    return float(rel_entr(a, b) + rel_entr(1 - a, 1 - b))


def p_value(losses: Floats, limit: float, *, binary: bool = False) -> float:
    """p-value of the hypothesis that the risk is at least ``limit``: if it is, P(p <= u) <= u for every u.

    Hoeffding-Bentkus (Bates et al. 2021, "Distribution-free, risk-controlling prediction sets", section 3.1), the
    p-value of learn-then-test (Angelopoulos et al. 2021, section 2); for binary losses the exact binomial tail.

    Examples:
        >>> losses = np.zeros(30)  # no example loses anything
        >>> round(p_value(losses, 0.1, binary=True), 3)  # 0.9 ** 30
        0.042

    Args:
        losses: (n,) float64 in [0, 1].
        limit: In (0, 1].
        binary: The loss can take no other value than 0 and 1: a property of its definition, not of this sample.
    """
    n = len(losses)
    total = math.fsum(losses)
    if binary:
        return float(binom.cdf(round(total), n, limit))
    hoeffding = math.exp(-n * divergence(min(total / n, limit), limit))
    bentkus = math.e * float(binom.cdf(math.ceil(total), n, limit))
    return min(hoeffding, bentkus, 1.0)


def upper_bound(losses: Floats, delta: float, *, binary: bool = False) -> float:
    """The largest risk that ``p_value`` does not reject at level ``delta`` < 0.5: an upper bound with P >= 1 - delta.

    For binary losses it is the one-sided Clopper-Pearson bound.

    Examples:
        >>> round(upper_bound(np.zeros(30), 0.05, binary=True), 3)
        0.095
    """
    mean = math.fsum(losses) / len(losses)
    if mean == 1:
        return 1.0
    return float(brentq(lambda limit: p_value(losses, limit, binary=binary) - delta, max(mean, 1e-12), 1.0))


def examples_needed(limit: float, delta: float, drop: float = 0.0) -> int:
    """How many examples of mean loss ``drop`` < ``limit`` bring the p-value to ``delta``; without a loss, the least.

    Examples:
        >>> examples_needed(0.05, 0.05)
        59
    """
    return math.ceil(math.log(1 / delta) / divergence(drop, limit))
