"""Early exit at a fixed layer: the first layers run, then the LM head reads what they have made."""

from __future__ import annotations

from dlskip.config import Params
from dlskip.methods.base import Method, dropping, for_shares
from dlskip.methods.settings import BatchRule, PlannedSetting
from dlskip.models import artifact
from dlskip.skip import Policy

TITLE = "Early exit"


class EarlyExit(Method):
    """Training-free: the fine-tuned model, its upper layers left out, the last one too."""

    name = "early_exit"

    def make(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        start = artifact.directory("vanilla", backbone, seed)
        return for_shares(params, backbone, start, lambda share, n: list(range(max(1, n - round(share * n)), n)))

    def policy(self, planned: PlannedSetting, task: str, batch: BatchRule) -> Policy:
        return dropping(planned.skip, planned.layers, frees_last=True)


METHOD = EarlyExit()
