"""Unified layer skipping (Liu et al. 2024): evenly spaced layers run, whatever the input."""

from __future__ import annotations

from dlskip.config import Params
from dlskip.methods.base import Method, for_shares
from dlskip.methods.layer_sets import evenly_spaced_skips
from dlskip.methods.settings import PlannedSetting
from dlskip.models import artifact

TITLE = "Unified skipping"


class Unified(Method):
    """Training-free: the fine-tuned model with evenly spaced layers."""

    name = "unified"

    def make(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        start = artifact.directory("vanilla", backbone, seed)
        return for_shares(params, backbone, start, evenly_spaced_skips)


METHOD = Unified()
