"""Early exit at a fixed layer: the first layers run, then the LM head reads what they have made."""

from __future__ import annotations

from pathlib import Path

from dlskip.config import Params
from dlskip.methods.base import Method, dropping, for_shares
from dlskip.methods.settings import BatchRule, PlannedSetting
from dlskip.skip import Policy

TITLE = "Early exit"


class EarlyExit(Method):
    """Training-free: the fine-tuned model, its upper layers left out, the last one too."""

    name = "early_exit"

    def on(self, params: Params, backbone: str, weights: Path, *, adapters: bool = False) -> list[PlannedSetting]:
        return for_shares(params, backbone, weights, _upper, adapters=adapters)

    def policy(self, planned: PlannedSetting, task: str, batch: BatchRule) -> Policy:
        return dropping(planned.skip, planned.layers, frees_last=True)


def _upper(share: float, layers: int) -> list[int]:
    """The layers above the exit."""
    return list(range(max(1, layers - round(share * layers)), layers))


METHOD = EarlyExit()
