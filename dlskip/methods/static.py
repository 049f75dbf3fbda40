"""Static skipping (Yuan et al.): a fixed block of layers dropped and the rest fine-tuned, one model per share."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from dlskip.config import Params
from dlskip.data.batches import Batch
from dlskip.methods.base import Method, dropping, for_shares, on_own
from dlskip.methods.layer_sets import block
from dlskip.methods.settings import PlannedSetting
from dlskip.models import artifact
from dlskip.models.backbone import layer_count
from dlskip.models.tuning import backbone_parameters
from dlskip.skip import Policy, skipper_of
from dlskip.steps.supervised import Supervised
from dlskip.training.loop import Metrics
from dlskip.training.stage import TrainingStage

TITLE = "Static (Yuan et al.)"


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

    def on(self, params: Params, backbone: str, weights: Path, *, adapters: bool = False) -> list[PlannedSetting]:
        where = params.baselines.static.block
        return for_shares(params, backbone, weights, lambda share, n: block(share, n, where), adapters=adapters)

    def make(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        out = artifact.directory(self.name, backbone, seed)
        return on_own(self.on(params, backbone, out), out)

    def train(self, params: Params, backbone: str, seed: int, share: float) -> None:
        config = params.baselines.static
        layers = layer_count(backbone, params.backbones[backbone])
        start = artifact.directory("vanilla", backbone, seed) if config.init == "finetune" else None
        out = artifact.directory(self.name, backbone, seed)
        stage = TrainingStage(
            params, "train_baselines", backbone, seed, config.train, {"static": config}, out / str(share)
        )
        model, tokenizer = artifact.build_model(params, backbone, weights=start, adapters=False)
        step = Cut(model, dropping(block(share, layers, config.block), layers))
        stage.run(step, model, stage.examples(tokenizer, stage.tasks, "train"), tokenizer.pad_token_id)


METHOD = Static()
