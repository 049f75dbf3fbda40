"""Layer-skip pretraining as a baseline (paper, §4.2): the layers of ``static`` left out, trained with eqs 7-9."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from dlskip.config import Params, PretrainStatic
from dlskip.data.batches import Batch
from dlskip.inference.scoring import hidden_states, target_logits
from dlskip.methods.base import Method, dropping, for_shares, on_own
from dlskip.methods.layer_sets import block
from dlskip.methods.settings import ALL, PlannedSetting
from dlskip.models import artifact, tuning
from dlskip.models.backbone import layer_count
from dlskip.skip import Forced, skipper_of
from dlskip.skip.stack import output_logits
from dlskip.training.loop import Metrics, Step
from dlskip.training.losses import skip_pretraining
from dlskip.training.stage import TrainingStage
from dlskip.training.teacher import teacher_logits

TITLE = "Layer-skip pretraining"


class Sets(BaseModel):
    """The layers that are left out, one list for each share that the model is trained for."""

    skipped: list[list[int]]


class UnderSets(Step):
    """One step of layer-skip pretraining (eqs 7-9) under given sets of layers.

    With one set both students are the same, so one is computed and L_reg is 0. With more, each example draws two of
    them, one for each student.

    Args:
        model: Model with skipping attached, and a teacher loaded if the configuration says frozen.
        sets: The layers that are left out.
        config: The section ``baselines.pretrain_static``.
    """

    def __init__(self, model: nn.Module, sets: Sets, config: PretrainStatic) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.skipper = skipper_of(model)
        self.runs = torch.cat([dropping(skip, self.skipper.num_layers).runs for skip in sets.skipped])  # (sets, L)
        self._trained = [*tuning.backbone_parameters(model), *self.skipper.adapters()]
        for parameter in self._trained:
            parameter.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": self._trained}]

    def forward(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Metrics]:
        teacher = teacher_logits(self.model, batch, self.config.teacher)
        first, second = self._students(batch)
        loss, parts = skip_pretraining(teacher, first, second, batch.targets, batch.weight, self.config.alpha)
        return loss, dict(parts)

    def _students(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The logits P1 and P2 at the predicting tokens, (N, V) each."""
        if len(self.runs) == 1:
            with self.skipper.using(Forced(self.runs)):
                logits = target_logits(self.model, batch)
            return logits, logits
        twice = batch.repeat(2)
        drawn = torch.stack([torch.randperm(len(self.runs))[:2] for _ in range(batch.size)])
        with self.skipper.using(Forced(self.runs[drawn.flatten()]), twice.sample_deciders):
            hidden = hidden_states(self.model, twice)
        copy = twice.sample % 2
        return output_logits(self.model, hidden[copy == 0]), output_logits(self.model, hidden[copy == 1])


class Pretrained(Method):
    """One model per share, or one for all of them (``baselines.pretrain_static.models``), with adapters of its own."""

    name = "pretrain_static"

    def make(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        out, where = artifact.directory(self.name, backbone, seed), params.baselines.static.block
        planned = for_shares(params, backbone, out, lambda share, n: block(share, n, where), adapters=True)
        return on_own(planned, out, one=params.baselines.pretrain_static.models == "one")

    def train(self, params: Params, backbone: str, seed: int, share: float) -> None:
        self._train(params, backbone, seed, [share], "train_baselines", str(share))

    def train_once(self, params: Params, backbone: str, seed: int) -> None:
        self._train(params, backbone, seed, params.evaluate.shares, "train_once", ALL)

    def _train(
        self, params: Params, backbone: str, seed: int, shares: list[float], name: str, folder: str
    ) -> None:  # fmt: skip
        """Trains the model of some shares: the fine-tuned one with fresh adapters, whose output is 0 at first."""
        config, layers = params.baselines.pretrain_static, layer_count(backbone, params.backbones[backbone])
        sets = Sets(skipped=[block(share, layers, params.baselines.static.block) for share in shares])
        vanilla, out = artifact.directory("vanilla", backbone, seed), artifact.directory(self.name, backbone, seed)
        stage = TrainingStage(
            params, name, backbone, seed, config.train, {"pretrain_static": config, "sets": sets}, out / folder
        )
        start: Path | None = vanilla if config.init == "finetune" else None
        model, tokenizer = artifact.build_model(params, backbone, weights=start)
        if config.teacher == "frozen":
            tuning.load_teacher(model, vanilla / "backbone")
        examples = stage.examples(tokenizer, stage.tasks, "train")
        stage.run(UnderSets(model, sets, config), model, examples, tokenizer.pad_token_id)


METHOD = Pretrained()
