"""Every method by its name."""

from __future__ import annotations

from dlskip.methods.base import Method
from dlskip.methods.baselines import has_file, of_file
from dlskip.methods.borrowed import of_name
from dlskip.methods.learned import Learned
from dlskip.methods.settings import borrowed


def method(name: str) -> Method:
    """A method by its name. What has no file of its own, and does not borrow weights, is an ablation."""
    if has_file(name):
        return of_file(name)
    return of_name(name) if borrowed(name) else Learned(name)
