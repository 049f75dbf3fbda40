"""Early exit at a fixed layer: the first layers run, then the LM head reads what they have made."""

from __future__ import annotations

from dlskip.config import Params
from dlskip.methods.base import Method, Setting, dropping, shared
from dlskip.models import artifact
from dlskip.skip import Policy


class EarlyExit(Method):
    """Training-free: the fine-tuned model, its upper layers left out, the last one too."""

    name = "early_exit"

    def make(self, params: Params, backbone: str, seed: int) -> list[Setting]:
        start = artifact.directory("vanilla", backbone, seed)
        settings = shared(params, backbone, start)
        exits = [max(1, s.layers - round(float(s.name) * s.layers)) for s in settings]
        return [s.model_copy(update={"skip": list(range(n, s.layers))}) for s, n in zip(settings, exits, strict=True)]

    def policy(self, setting: Setting, task: str, batch: str) -> Policy:
        return dropping(setting.skip, setting.layers, frees_last=True)


METHOD = EarlyExit()
