"""Cross entropy on the targets at full depth: fine-tuning of the backbone, or initialisation of the adapters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dlskip.batches import Batch
from dlskip.steps.common import target_logits
from dlskip.train import Metrics, Step


class Supervised(Step):
    """Trains the given parameters on the targets with every layer running.

    Args:
        model: The model.
        parameters: What is trained: the backbone's (stage finetune) or the adapters' (stage adapter_init, method §7).
    """

    def __init__(self, model: nn.Module, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.model, self._trained = model, parameters
        for parameter in parameters:
            parameter.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": self._trained}]

    def forward(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Metrics]:
        logits = target_logits(self.model, batch)
        loss = F.cross_entropy(logits, batch.targets)
        return loss, {"ce": loss.detach(), "token_accuracy": (logits.argmax(-1) == batch.targets).float().mean()}
