"""Unified layer skipping (Liu et al. 2024): evenly spaced layers run, whatever the input."""

from __future__ import annotations

from dlskip.config import Params
from dlskip.methods.base import Method, Setting, shared
from dlskip.methods.layer_sets import evenly_spaced_skips
from dlskip.models import artifact


class Unified(Method):
    """Training-free: the fine-tuned model with evenly spaced layers."""

    name = "unified"

    def make(self, params: Params, backbone: str, seed: int) -> list[Setting]:
        start = artifact.directory("vanilla", backbone, seed)
        return [
            s.model_copy(update={"skip": evenly_spaced_skips(float(s.name), s.layers)})
            for s in shared(params, backbone, start)
        ]


METHOD = Unified()
