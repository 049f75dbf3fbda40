"""Sections of the default's params.yaml, with changes: none of them has defaults of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlskip import config

DEFAULT = config.load_params(Path(__file__).resolve().parents[2] / "params.yaml")


def tune(**changes: Any) -> config.Tune:
    """``model.tune``."""
    return config.Tune(**(DEFAULT.model.tune.model_dump() | changes))
