"""MIXER fine-tuning (docs/method.md §5): task loss under the policy's own sampled masks, giving way to REINFORCE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlskip.config import RL, Mixer, Params
from dlskip.data.batches import Batch
from dlskip.inference.scoring import target_logits
from dlskip.models import artifact, tuning
from dlskip.skip import Sampled, skipper_of
from dlskip.steps.reinforce import Trajectories, collapse_alarms, drawn_prices, draws, held_out
from dlskip.training.loop import Metrics, Step
from dlskip.training.price import Price
from dlskip.training.stage import TrainingStage


def task_weights(config: Mixer, batch: Batch, progress: float) -> Tensor:
    """Weight of the task loss per predicted token, (N,); the RL objective gets the rest.

    ``linear``: one weight for all, from ``w_start`` to ``w_end``. ``mixer`` (Ranzato et al. 2016): 1 on the target's
    first tokens and 0 on a suffix that grows by ``delta`` tokens per stage.

    Examples:
        >>> task_weights(mixer_section, batch, progress=0.0)  # w_start, for each predicted token
        tensor([1., 1., 1., 1., 1.])
    """
    if config.schedule == "linear":
        w = config.w_start + (config.w_end - config.w_start) * progress
        return torch.full_like(batch.targets, w, dtype=torch.float32)
    suffix = int(progress * config.stages) * config.delta
    length = torch.bincount(batch.sample, minlength=batch.size)
    return (batch.place < length[batch.sample] - suffix).float()


def share_at(config: Mixer, rl: RL, progress: float) -> float | None:
    """The skipped share that the price is adapted to: from ``rl.share`` to ``mixer.share`` over the first half.

    Examples:
        >>> low, high = rl_section.model_copy(update={"share": 0.25}), mixer_section.model_copy(update={"share": 0.5})
        >>> [share_at(high, low, progress) for progress in (0.0, 0.25, 0.5, 1.0)]
        [0.25, 0.375, 0.5, 0.5]
    """
    if config.share is None or rl.share is None:
        return None
    return rl.share + (config.share - rl.share) * min(1.0, 2 * progress)


class Mix(Step):
    """Trains everything: LoRA or backbone, adapters and heads.

    Args:
        model: Model with skipping attached.
        config: The ``mixer`` section.
        rl: The ``rl`` section: reward, baseline and entropy are those of the RL stage.
        held: Held-out examples.
    """

    def __init__(self, model: nn.Module, config: Mixer, rl: RL, held: Batch) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.held = held
        baseline = "rloo" if config.rollouts > 1 else "none"
        self.rl = rl.model_copy(update={"baseline": baseline})
        self.skipper = skipper_of(model)
        self.price = Price(rl.price, config.share, self.skipper.num_layers, "mixer")
        self._backbone = tuning.backbone_parameters(model)
        for parameter in [*self._backbone, *self.skipper.adapters(), *self.skipper.heads()]:
            parameter.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        heads = {"params": self.skipper.heads(), "lr": self.config.head_lr, "weight_decay": 0.0}
        return [
            {"params": [*self._backbone, *self.skipper.adapters()]},
            heads | {"constant": not self.config.head_decay},
        ]

    def forward(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Metrics]:
        repeated = batch.repeat(self.config.rollouts)
        policy = Sampled(draws(), price=drawn_prices(self.skipper, repeated, self.config.rollouts))
        with self.skipper.using(policy, repeated.deciders):
            ce = F.cross_entropy(target_logits(self.model, repeated), repeated.targets, reduction="none")
        entropy = self.rl.entropy + (self.config.entropy_end - self.rl.entropy) * progress
        rl = self.rl.model_copy(update={"entropy": entropy})
        rolled = Trajectories(policy, ce, repeated, rl, self.config.rollouts, self.price.now())
        weight = task_weights(self.config, repeated, progress)
        task = (weight * ce * repeated.weight).sum()
        objective, policy_metrics = rolled.loss(
            self.skipper, rolled.advantage(torch.zeros(()), None), (1 - weight) * repeated.weight
        )
        metrics = {
            "ce": (ce.detach() * repeated.weight).sum(),
            "task_weight": weight.mean(),
            "price": self.price.now(),
            **policy_metrics,
            **rolled.log(),
        }
        self.price.follow(policy_metrics["skip_expected"], share_at(self.config, self.rl, progress))
        return task + objective, metrics

    def held_out(self, step: int) -> Metrics:
        return held_out(self.model, self.held)

    def alarms(self, step: int, measured: dict[str, float]) -> list[dict[str, Any]]:
        return collapse_alarms(step, measured, self.rl, self.skipper.num_layers)


def mixer(params: Params, backbone: str, seed: int, *, start: Path | None = None, out: Path | None = None) -> None:
    """Everything, under the policy's own masks: method ``ours``.

    Args:
        params, backbone, seed: What is run.
        start: Artifact to start from; default the model with RL-trained controllers.
        out: As of ``TrainingStage``.
    """
    config = params.mixer
    out = out or artifact.directory("ours", backbone, seed)
    start = start or artifact.directory("rl", backbone, seed)
    stage = TrainingStage(params, "mixer", backbone, seed, config.train, {"mixer": config, "rl": params.rl}, out)
    model, tokenizer = artifact.build_model(params, backbone, weights=start, skip=start)
    examples = stage.examples(tokenizer, stage.tasks, "train")
    step = Mix(model, config, params.rl, stage.held_out(tokenizer, params.rl.eval_examples))
    stage.run(step, model, examples, tokenizer.pad_token_id, params.rl.eval_every)
