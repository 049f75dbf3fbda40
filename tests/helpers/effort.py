"""How much of a property is tried: a little in `make test`, much in `make test-all`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest

from dlskip.models.tiny import FAMILIES

ALL = os.environ.get("DLSKIP_TEST_ALL") == "1"  # as `make test-all` sets it


def tries(few: int) -> int:
    """How many examples hypothesis draws: ``few``, or twenty times as many."""
    return 20 * few if ALL else few


def further(same: str, values: Iterable[Any]) -> list[Any]:
    """Values of a parameter for `make test-all` alone; ``same``: those of them that every run tries."""
    mark = pytest.mark.exhaustive(same)
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=mark) for v in values]


# Families whose layers are unlike each other: what holds for these four is tried on every family in `make test-all`.
FOUR = ("llama", "gpt2", "opt", "falcon")
FOUR_OR_ALL = [*FOUR, *further("family: llama, gpt2, opt, falcon", (name for name in FAMILIES if name not in FOUR))]
