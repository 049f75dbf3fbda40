"""What the workers of one test run share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def folder(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of this run, the same one for all its workers."""
    base = factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    made.mkdir(exist_ok=True)
    return made
