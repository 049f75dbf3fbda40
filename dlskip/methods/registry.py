"""Every method by its name."""

from __future__ import annotations

from dlskip.methods.base import Method
from dlskip.methods.baselines import baseline, is_baseline
from dlskip.methods.learned import Learned, Vanilla


def method(name: str) -> Method:
    """A method by its name. What has no file of its own is an ablation."""
    if name == "vanilla":
        return Vanilla()
    return baseline(name) if is_baseline(name) else Learned(name)
