"""Sections of the default's params.yaml, with changes: none of them has defaults of its own."""

from __future__ import annotations

from typing import Any

from dlskip import config
from tests.helpers.default import PARAMS

DEFAULT = config.load_params(PARAMS)


def tune(**changes: Any) -> config.Tune:
    """``model.tune``."""
    return config.Tune(**(DEFAULT.model.tune.model_dump() | changes))
