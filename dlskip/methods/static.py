"""Static skipping (Yuan et al.): a fixed block of layers dropped and the rest fine-tuned, one model per share."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from dlskip.config import Params
from dlskip.data.batches import Batch
from dlskip.methods.base import Method, Setting, dropping, shared
from dlskip.methods.layer_sets import block
from dlskip.models import artifact
from dlskip.models.tuning import backbone_parameters
from dlskip.skip import Policy, skipper_of
from dlskip.steps.supervised import Supervised
from dlskip.training import checkpoint
from dlskip.training.loop import Metrics
from dlskip.training.stage import TrainingStage


class Cut(Supervised):
    """Fine-tuning with the dropped layers not computed."""

    def __init__(self, model: nn.Module, policy: Policy) -> None:
        super().__init__(model, backbone_parameters(model))
        self.policy = policy

    def forward(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Metrics]:
        with skipper_of(self.model).using(self.policy):
            return super().forward(batch, step, progress)


class Static(Method):
    """One fine-tuned model per share."""

    name = "static"

    def make(self, params: Params, backbone: str, seed: int) -> list[Setting]:
        start, out = artifact.directory("vanilla", backbone, seed), artifact.directory(self.name, backbone, seed)
        settings = []
        for setting in shared(params, backbone, start):
            skip = block(float(setting.name), setting.layers, params.baselines.static.block)
            self._train(params, backbone, seed, start, out / setting.name, skip, setting.layers)
            settings.append(setting.model_copy(update={"skip": skip, "weights": str(out / setting.name)}))
        checkpoint.forget(out)
        return settings

    def _train(
        self, params: Params, backbone: str, seed: int, start: Path, out: Path, skip: list[int], layers: int
    ) -> None:
        config = params.baselines.static
        stage = TrainingStage(
            params, "baselines", backbone, seed, config.train, {"static": config}, out, part_of=out.parent
        )
        model, tokenizer = artifact.build(params, backbone, weights=start, adapters=False)
        step = Cut(model, dropping(skip, layers))
        stage.run(step, model, stage.examples(tokenizer, stage.tasks, "train"), tokenizer.pad_token_id)


METHOD = Static()
