"""REINFORCE on the controllers (docs/method.md §4): sampled trajectories, their rewards, the score-function gradient.

A trajectory is one deciding token's path through the layers. The states are given (detached), so the policy gradient
needs no backward pass through the transformer blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlskip.config import RL, Params
from dlskip.data.batches import Batch
from dlskip.inference.scoring import target_logits
from dlskip.models import artifact
from dlskip.skip import Sampled, Skipper, Strategy, Threshold, skipper_of
from dlskip.training.loop import Metrics, Step, total_steps
from dlskip.training.losses import (
    action_log_prob,
    cross_entropy,
    entropy,
    expected_costs,
    leave_one_out,
    reinforce,
    reward,
)
from dlskip.training.price import Price
from dlskip.training.stage import TrainingStage


def by_decision(batch: Batch, copies: int) -> Tensor:
    """Of a batch repeated ``copies`` times: the index (M, K) of each original decision's K trajectories."""
    sample = batch.sample // copies
    order = (sample * (int(batch.place.max()) + 1) + batch.place).argsort(stable=True)
    return order.view(-1, copies)


def sample_tokens(batch: Batch) -> Tensor:
    """How many tokens of each sample decide: (E,) float32."""
    counts = torch.zeros(batch.size, device=batch.sample.device)
    return counts.index_add(0, batch.sample, torch.ones_like(batch.weight))


def draws() -> torch.Generator:
    """A CPU generator for action draws, seeded from the step's seeded global state."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (1,))))


def policy_logits(skipper: Skipper, states: list[Tensor], price: Tensor | float | None = None) -> Tensor:
    """The controllers' logits at recorded states, with gradient: A states (N, D) -> (N, A)."""
    x = skipper.scaled(price)
    pairs = zip(skipper.controllers(), states, strict=True)
    return torch.stack([head(adapter(s), x) for (adapter, head), s in pairs], dim=1)


def drawn_prices(skipper: Skipper, batch: Batch, copies: int) -> Tensor | None:
    """A price for each decision (N,) of a batch repeated ``copies`` times; None if no controller uses it.

    Log-uniform over the range. Copies of a sample share theirs, since their rewards are compared.
    """
    if skipper.prices is None:
        return None
    low, high = skipper.prices
    samples = low * (high / low) ** torch.rand(batch.size // copies)
    return samples.to(batch.sample.device)[batch.sample // copies]


def strategy_at(config: RL, progress: float) -> Strategy | None:
    """The sampling strategy with M annealed from its start to 0 over the run, every value equally long.

    Examples:
        >>> [strategy_at(rl_section, progress) and strategy_at(rl_section, progress).m for progress in (0, 0.3, 0.9)]
        [3, 2, None]
    """
    s = config.sampling
    m = min(s.m_start, int((s.m_start + 1) * (1 - progress)))
    return Strategy(s.tau, s.t, m, s.count_skipped) if s.enabled and m > 0 else None


class Trajectories:
    """What one sampled pass yields: N trajectories over A free layers.

    Args:
        policy: The policy that has just run.
        ce: (N,) cross entropy of each deciding token's target.
        batch: The batch, repeated ``copies`` times.
        config: The ``rl`` section.
        copies: K.
        price: Lambda, where the policy is conditioned on none.
    """

    def __init__(
        self, policy: Sampled, ce: Tensor, batch: Batch, config: RL, copies: int, price: Tensor | float
    ) -> None:
        self.policy = policy
        self.batch = batch
        self.config = config
        self.copies = copies
        self.price = price if policy.price is None else policy.price
        self.skipped = torch.stack(policy.skipped, dim=1)
        self.bonus = torch.stack(policy.bonus, dim=1)
        self.layers_run = policy.layers - self.skipped.sum(dim=1).float()
        self.reward = reward(ce.detach(), self.layers_run, policy.layers, self.price, config.cost)
        self.earned = self.rewarded(ce.detach(), self.layers_run, batch, self.price)

    def rewarded(self, ce: Tensor, layers_run: Tensor, batch: Batch, price: Tensor | float) -> Tensor:
        """What the actions of each token earn (N,): its reward, or with `sample` credit the mean of its sample.

        With the exact gradient of the cost it is ``-CE`` alone.
        """
        price = 0.0 if self.config.cost_gradient == "exact" else price
        r = reward(ce, layers_run, self.policy.layers, price, self.config.cost)
        if self.config.credit == "token":
            return r
        total = torch.zeros(batch.size, device=r.device).index_add(0, batch.sample, r)
        return (total / sample_tokens(batch))[batch.sample]

    def advantage(self, ema: Tensor, greedy: Tensor | None) -> Tensor:
        """What is earned less the baseline: (N,). ``greedy`` (M,) is what the thresholded policy earns."""
        kind = self.config.baseline
        if kind == "none":
            return self.earned
        if kind == "ema":
            return self.earned - ema
        groups = by_decision(self.batch, self.copies)
        values = self.earned[groups]  # (M, K)
        if kind == "rloo":
            centred = leave_one_out(values)
        else:
            assert greedy is not None
            centred = values - greedy[:, None]
        return torch.empty_like(self.earned).index_copy(0, groups.flatten(), centred.flatten())

    def loss(self, skipper: Skipper, advantage: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Policy-gradient loss with entropy bonus, and for the log the mean entropy and the expected skipped share.

        ``weight`` (N,) sums to at most 1 as ``Batch.weight`` does. With `sample` credit a sample's reward is earned by
        the actions of all its tokens, so each counts in full and not as its share of the sample.
        """
        logits = policy_logits(skipper, self.policy.states, self.policy.price)
        log_prob = action_log_prob(logits, self.skipped, self.bonus)
        bits = entropy(logits)
        full = weight if self.config.credit == "token" else weight * sample_tokens(self.batch)[self.batch.sample]
        loss = -self.config.entropy * (bits.sum(dim=1) * weight).sum()
        if self.config.cost_gradient == "exact":
            p = (torch.sigmoid(logits) + self.bonus).clamp(max=1.0)
            costs = expected_costs(p, self.policy.layers, self.config.cost)
            loss = loss + (weight * self.price * costs.sum(dim=1)).sum()
            advantage = advantage[:, None] - self._later(costs.detach())
        loss = loss + reinforce(log_prob, advantage, full)
        skipped = torch.sigmoid(logits.detach()).sum(dim=1) @ self.batch.applications / self.policy.layers
        return loss, {"entropy": bits.mean().detach(), "skip_expected": skipped}

    def _later(self, costs: Tensor) -> Tensor:
        """Lambda times what the layers after each one cost (N, A), less the mean of the token's other trajectories.

        An action changes the states that later controllers see, and so what they cost; not what came before it.
        """
        price = self.price[:, None] if isinstance(self.price, Tensor) and self.price.dim() else self.price
        later = price * (costs.flip(1).cumsum(dim=1).flip(1) - costs)
        if self.copies == 1:
            return later
        groups = by_decision(self.batch, self.copies)
        return torch.empty_like(later).index_copy(0, groups.flatten(), leave_one_out(later[groups]).flatten(0, 1))

    def log(self) -> Metrics:
        """Reward and rates, for the curves."""
        return {
            "reward": (self.reward * self.batch.weight).sum(),
            "layers_run": (self.layers_run * self.batch.weight).sum(),
            "skip_sampled": 1 - (self.layers_run * self.batch.weight).sum() / self.policy.layers,
        }


class Reinforce(Step):
    """Trains the controllers, adapter and head of every layer that has one; backbone and LoRA stay frozen.

    No action depends on the adapters of the last two layers, so the policy gradient leaves them alone.

    Args:
        model: Model with skipping attached.
        config: The ``rl`` section.
        held: Held-out examples for the sampled and thresholded skip rates.
        quiet_until: No collapse alarm before this step: fresh heads agree with nobody.
    """

    extra_ema: Tensor

    def __init__(self, model: nn.Module, config: RL, held: Batch, quiet_until: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.skipper = skipper_of(model)
        self.price = Price(config.price, config.share, self.skipper.num_layers)
        self.held = held
        self.quiet_until = quiet_until
        self.register_buffer("extra_ema", torch.zeros(2))  # moving average of the reward, and its total weight
        for parameter in [*self.skipper.adapters(controlling=True), *self.skipper.heads()]:
            parameter.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        return [
            {"params": self.skipper.adapters(controlling=True)},
            {"params": self.skipper.heads(), "lr": self.config.head_lr, "weight_decay": 0.0},
        ]

    def forward(self, batch: Batch, step: int, progress: float) -> tuple[Tensor, Metrics]:
        copies = self.config.rollouts
        repeated = batch.repeat(copies)
        price = drawn_prices(self.skipper, repeated, copies)
        policy = Sampled(draws(), strategy_at(self.config, progress), price=price)
        with torch.no_grad(), self.skipper.using(policy, repeated.deciders):
            ce = F.cross_entropy(target_logits(self.model, repeated), repeated.targets, reduction="none")
        rolled = Trajectories(policy, ce, repeated, self.config, copies, self.price.now())
        greedy = self._greedy(rolled, batch) if self.config.baseline == "self_critical" else None
        advantage = rolled.advantage(self._ema(rolled.earned), greedy)
        loss, policy_metrics = rolled.loss(self.skipper, advantage, repeated.weight)
        metrics = {**rolled.log(), **policy_metrics, "ce_reward": (ce * repeated.weight).sum()}
        metrics["price"] = self.price.now()
        self.price.follow(policy_metrics["skip_expected"])
        return loss, metrics

    def _greedy(self, rolled: Trajectories, batch: Batch) -> Tensor:
        drawn = rolled.policy.price
        price = drawn[by_decision(rolled.batch, rolled.copies)[:, 0]] if isinstance(drawn, Tensor) else None
        with torch.no_grad(), self.skipper.using(Threshold(0.5, price=price), batch.deciders):
            ce = F.cross_entropy(target_logits(self.model, batch), batch.targets, reduction="none")
        assert self.skipper.last is not None
        run = self.skipper.last.run_matrix().sum(dim=1).to(ce.device).float()
        return rolled.rewarded(ce, run, batch, rolled.price if price is None else price)

    def _ema(self, rewards: Tensor) -> Tensor:
        """The moving average before this step's rewards join it (bias-corrected; 0 at first)."""
        total, weight = self.extra_ema.unbind()
        before = total / weight.clamp(min=1e-8)
        with torch.no_grad():
            self.extra_ema.mul_(0.9).add_(torch.stack([0.1 * rewards.mean(), weight.new_tensor(0.1)]))
        return before

    def held_out(self, step: int) -> Metrics:
        return held_out(self.model, self.held)

    def alarms(self, step: int, measured: dict[str, float]) -> list[dict[str, Any]]:
        return [] if step < self.quiet_until else collapse_alarms(step, measured, self.config, self.skipper.num_layers)


@torch.no_grad()
def held_out(model: nn.Module, batch: Batch) -> Metrics:
    """Skip rates and cross entropy of the sampled and the thresholded policy, and at full depth, on held-out data."""
    skipper = skipper_of(model)
    result: Metrics = {}
    with skipper.full_depth():
        result["ce_full"] = cross_entropy(target_logits(model, batch), batch.targets, batch.weight)
    for name, policy in (("sampled", Sampled(torch.Generator().manual_seed(0))), ("threshold", Threshold(0.5))):
        with skipper.using(policy, batch.deciders):
            result[f"ce_{name}"] = cross_entropy(target_logits(model, batch), batch.targets, batch.weight)
        assert skipper.last is not None
        result[f"skip_{name}"] = 1 - skipper.last.run_matrix().float().mean()
    return result


def collapse_alarms(step: int, measured: dict[str, float], config: RL, layers: int) -> list[dict[str, Any]]:
    """Alarms on collapse: everything skipped, nothing skipped, or the two rates apart (docs/method.md §4).

    Examples:
        >>> measured = {"val_skip_sampled": 0.3, "val_skip_threshold": 0.0}
        >>> [alarm["kind"] for alarm in collapse_alarms(10, measured, rl_section, layers=30)]
        ['none-skip', 'rates-apart']
    """
    sampled, thresholded = measured["val_skip_sampled"], measured["val_skip_threshold"]
    most = (layers - 2) / layers
    found = []
    if thresholded > 0.98 * most:
        found.append(("all-skip", f"the thresholded policy skips every free layer ({thresholded:.0%})"))
    if thresholded < 0.01:
        found.append(("none-skip", f"the thresholded policy skips nothing (sampled: {sampled:.0%})"))
    if abs(sampled - thresholded) > config.alarm_gap:
        found.append(("rates-apart", f"sampled {sampled:.0%} against thresholded {thresholded:.0%} skipped"))
    return [{"step": step, "kind": kind, "message": message} for kind, message in found]


def rl(params: Params, backbone: str, seed: int, *, start: Path | None = None, out: Path | None = None) -> None:
    """Controllers learn which layers to skip.

    Args:
        params, backbone, seed: What is run.
        start: Artifact to start from; default the skip-pretrained model.
        out: As of ``TrainingStage``.
    """
    config = params.rl
    start = start or artifact.directory("skip_pretrain", backbone, seed)
    stage = TrainingStage(params, "rl", backbone, seed, config.train, {"rl": config}, out)
    model, tokenizer = artifact.build_model(params, backbone, weights=start, skip=start)
    skipper_of(model).init_heads(config.init_skip)
    examples = stage.examples(tokenizer, stage.tasks, "train")
    quiet = total_steps(config.train, len(examples)) // 4
    step = Reinforce(model, config, stage.held_out(tokenizer, config.eval_examples), quiet)
    stage.run(step, model, examples, tokenizer.pad_token_id, config.eval_every)
