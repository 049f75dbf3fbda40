"""The fine-tuned model that never skips."""

from __future__ import annotations

from dlskip.config import Params
from dlskip.methods.base import Method
from dlskip.methods.settings import FULL, PlannedSetting
from dlskip.models import artifact

TITLE = "Vanilla"


class Vanilla(Method):
    """Fine-tuned, every layer runs."""

    name = "vanilla"

    def settings(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        return [PlannedSetting(setting=FULL, weights=str(artifact.directory(self.name, backbone, seed)))]


METHOD = Vanilla()
