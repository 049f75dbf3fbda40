"""Layer-skip pretraining (docs/method.md §3): an unskipped teacher and two students that skip at random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlskip.config import Params, SkipPretrain
from dlskip.data.batches import Batch
from dlskip.inference.scoring import hidden_states
from dlskip.models import artifact, tuning
from dlskip.skip import Forced, skipper_of
from dlskip.skip.passes import Deciders
from dlskip.skip.stack import output_logits
from dlskip.training.loop import Metrics, Step
from dlskip.training.losses import cross_entropy
from dlskip.training.losses import skip_pretraining as objective
from dlskip.training.stage import TrainingStage
from dlskip.training.teacher import teacher_logits


def random_masks(n: int, layers: int, p: Tensor) -> Tensor:
    """Independent masks (n, L) bool, True = run, ``P(skip) = p`` (n, 1) on every layer but the first and the last.

    Examples:
        >>> random_masks(1, 4, torch.ones(1, 1))
        tensor([[ True, False, False,  True]])
    """
    runs = torch.rand(n, layers) >= p
    runs[:, 0] = runs[:, -1] = True
    return runs


class Pretrain(Step):
    """One step of layer-skip pretraining (eqs 7-9).

    Args:
        model: LoRA (or full) model with skipping attached, and a teacher loaded if the configuration says frozen.
        config: The ``skip_pretrain`` section.
    """

    def __init__(self, model: nn.Module, config: SkipPretrain) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.skipper = skipper_of(model)
        self._trained = [*tuning.backbone_parameters(model), *self.skipper.adapters()]
        for parameter in self._trained:
            parameter.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": self._trained}]

    def _probability(self, n: int, progress: float) -> Tensor:
        p = self.config.p * (min(1.0, progress / self.config.p_warmup) if self.config.p_warmup else 1.0)
        return torch.full((n, 1), p) * (torch.rand(n, 1) if self.config.p_draw == "uniform" else 1.0)

    def _masks(self, batch: Batch, p: Tensor) -> tuple[Tensor, Deciders | None]:
        """Masks (E, L) for samples that skip with ``p`` (E, 1), or (N, L) for tokens, and who decides by them."""
        if self.config.mask_unit == "sample":  # one mask for all tokens of a sample: whole rows leave the batch
            return random_masks(len(p), self.skipper.num_layers, p), batch.sample_deciders
        return random_masks(len(batch.rows), self.skipper.num_layers, p[batch.sample.cpu()]), batch.deciders

    def forward(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Metrics]:
        """Both students, and the unskipped forward if its loss counts, are copies of a sample in one batch."""
        teacher = teacher_logits(self.model, batch, self.config.teacher)
        copies = 3 if self.config.ce_unskipped else 2
        repeated = batch.repeat(copies)
        p = self._probability(batch.size, progress).repeat(1, copies)
        p[:, 2:] = 0
        runs, deciders = self._masks(repeated, p.view(-1, 1))
        with self.skipper.using(Forced(runs), deciders):
            hidden = hidden_states(self.model, repeated)
        copy = repeated.sample % copies
        first, second, *unskipped = (output_logits(self.model, hidden[copy == i]) for i in range(copies))
        loss, parts = objective(teacher, first, second, batch.targets, batch.weight, self.config.alpha)
        if unskipped:
            ce = cross_entropy(unskipped[0], batch.targets, batch.weight)
            loss = loss + self.config.ce_unskipped * ce
            parts["ce_unskipped"] = ce.detach()
        return loss, {**parts, "skip_masks": (1 - runs.float().mean()) * copies / 2}


def skip_pretrain(
    params: Params, backbone: str, seed: int, *, start: Path | None = None, out: Path | None = None
) -> None:
    """Trains backbone and adapters under random skips.

    Args:
        params, backbone, seed: What is run.
        start: Artifact whose adapters it starts from, if it has any; default the initialised ones.
        out: As of ``TrainingStage``.
    """
    config = params.skip_pretrain
    start = start or artifact.directory("adapter_init", backbone, seed)
    stage = TrainingStage(params, "skip_pretrain", backbone, seed, config.train, {"skip_pretrain": config}, out)
    weights = artifact.start_weights(params, backbone, seed)
    skip = start if (start / artifact.ADAPTERS).is_file() else None
    model, tokenizer = artifact.build_model(params, backbone, weights=weights, skip=skip)
    if config.teacher == "frozen":
        tuning.load_teacher(model, artifact.directory("vanilla", backbone, seed) / "backbone")
    examples = stage.examples(tokenizer, stage.tasks, "train")
    stage.run(Pretrain(model, config), model, examples, tokenizer.pad_token_id)
