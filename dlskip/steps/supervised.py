"""Cross entropy on the targets at full depth: fine-tuning of the backbone, or initialisation of the adapters."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dlskip.config import Params
from dlskip.data.batches import Batch
from dlskip.data.tasks import INSTRUCTIONS
from dlskip.inference.scoring import target_logits
from dlskip.models import artifact, tuning
from dlskip.skip import skipper_of
from dlskip.training.loop import Metrics, Step
from dlskip.training.losses import cross_entropy
from dlskip.training.stage import TrainingStage


class Supervised(Step):
    """Trains the given parameters on the targets with every layer running.

    Args:
        model: The model.
        parameters: What is trained: the backbone's (stage finetune) or the adapters' (adapter_init; docs/method.md §7).
    """

    def __init__(self, model: nn.Module, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.model = model
        self._trained = parameters
        for parameter in parameters:
            parameter.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": self._trained}]

    def forward(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Metrics]:
        logits = target_logits(self.model, batch)
        loss = cross_entropy(logits, batch.targets, batch.weight)
        return loss, {"ce": loss.detach(), "token_accuracy": (logits.argmax(-1) == batch.targets).float().mean()}


def finetune(params: Params, backbone: str, seed: int) -> None:
    """The fine-tuned, never-skipping model: method ``vanilla``, and the frozen teacher."""
    out = artifact.directory("vanilla", backbone, seed)
    stage = TrainingStage(params, "finetune", backbone, seed, params.finetune.train, {"finetune": params.finetune}, out)
    model, tokenizer = artifact.build_model(params, backbone, weights=None, skipping=False)
    step = Supervised(model, tuning.backbone_parameters(model))
    stage.run(step, model, stage.examples(tokenizer, stage.tasks, "train"), tokenizer.pad_token_id)


def adapter_init(params: Params, backbone: str, seed: int) -> None:
    """Adapters alone on instruction data, everything else frozen."""
    config = params.adapter_init
    stage = TrainingStage(params, "adapter_init", backbone, seed, config.train, {"adapter_init": config})
    model, tokenizer = artifact.build_model(params, backbone, weights=artifact.start_weights(params, backbone, seed))
    step = Supervised(model, skipper_of(model).adapters())
    stage.run(step, model, stage.examples(tokenizer, [INSTRUCTIONS], "train"), tokenizer.pad_token_id)
