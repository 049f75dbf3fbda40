"""Unified layer skipping (Liu et al. 2024): evenly spaced layers run, whatever the input."""

from __future__ import annotations

from pathlib import Path

from dlskip.config import Params
from dlskip.methods.base import Method, for_shares
from dlskip.methods.layer_sets import evenly_spaced_skips
from dlskip.methods.settings import PlannedSetting

TITLE = "Unified skipping"


class Unified(Method):
    """Training-free: the fine-tuned model with evenly spaced layers."""

    name = "unified"

    def on(self, params: Params, backbone: str, weights: Path, *, adapters: bool = False) -> list[PlannedSetting]:
        return for_shares(params, backbone, weights, evenly_spaced_skips, adapters=adapters)


METHOD = Unified()
