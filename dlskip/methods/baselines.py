"""The methods that ours is compared with, by name: ``dlskip/methods/<name>.py`` holds ``METHOD``.

They are looked up when asked for, so that a stage of one method does not depend on the files of the others.
"""

from __future__ import annotations

import importlib
import importlib.util

from dlskip.config import Params
from dlskip.errors import DlskipError
from dlskip.methods import base
from dlskip.methods.base import Method


def has_file(name: str) -> bool:
    """Whether a method has a file of its own; an ablation has none."""
    return name.isidentifier() and importlib.util.find_spec(f"dlskip.methods.{name}") is not None


def of_file(name: str) -> Method:
    """A method that ours is compared with.

    Raises:
        DlskipError: There is none of that name.
    """
    found = importlib.import_module(f"dlskip.methods.{name}") if has_file(name) else None
    if not isinstance(made := getattr(found, "METHOD", None), Method):
        raise DlskipError(
            f"no method {name!r}", where="params.yaml: grid", mend="dlskip/methods/names.py lists those there are"
        )
    return made


def make_baseline(params: Params, name: str, backbone: str, seed: int) -> None:
    """Writes a baseline's plan (stage ``baselines``). It says itself where it comes from, and is the same each time."""
    base.make_plan(of_file(name), params, backbone, seed)


def train_baseline_once(params: Params, name: str, backbone: str, seed: int) -> None:
    """Trains the one model of a baseline that has one for all of its settings (stage ``train_once``)."""
    of_file(name).train_once(params, backbone, seed)


def train_baseline(params: Params, name: str, share: float, backbone: str, seed: int) -> None:
    """Trains a baseline's model of one share (stage ``train_baselines``)."""
    of_file(name).train(params, backbone, seed, share)
