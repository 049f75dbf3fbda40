"""Every method by its name."""

from __future__ import annotations

from dlskip.methods.base import Method
from dlskip.methods.baselines import has_file, of_file
from dlskip.methods.learned import Learned


def method(name: str) -> Method:
    """A method by its name. What has no file of its own is an ablation."""
    return of_file(name) if has_file(name) else Learned(name)
