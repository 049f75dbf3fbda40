"""The policy gradient against enumeration over every mask of a small model, states held fixed (docs/method.md §4)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dlskip.data.batches import Batch
from dlskip.inference.scoring import target_logits
from dlskip.skip import Sampled, Skipper, Strategy
from dlskip.steps.mixer import Mix
from dlskip.steps.reinforce import Reinforce, Trajectories, by_decision, collapse_alarms, policy_logits
from dlskip.training.losses import action_log_prob, entropy, leave_one_out, reinforce, reward
from tests.helpers.sections import mixer

Ragged = Callable[..., Batch]
LAYERS = 4  # two of them free: four masks per deciding token
RAISED = Strategy(tau=-1.0, t=0.2, m=1)  # every layer that runs is similar


class Fixed(Sampled):
    """Takes given actions (N, A), True = skip, and records them as sampling would."""

    def __init__(self, actions: Tensor, strategy: Strategy | None = None) -> None:
        super().__init__(torch.Generator(), strategy)
        self.actions = actions

    def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> Tensor | None:
        super().decide(layer, logit, state)
        self.skipped[-1] = self.actions[:, layer - 1]
        return ~self.skipped[-1]


def all_actions(n: int) -> Iterator[Tensor]:
    """Every joint choice of n deciding tokens: (n, 2) bool each."""
    for flat in itertools.product([False, True], repeat=n * (LAYERS - 2)):
        yield torch.tensor(flat).view(n, LAYERS - 2)


def rolled(
    model: Any, skipper: Skipper, batch: Batch, actions: Tensor, config: Any, copies: int, strategy: Any = None
) -> Trajectories:
    policy = Fixed(actions, strategy)
    with torch.no_grad(), skipper.using(policy, batch.deciders):
        ce = F.cross_entropy(target_logits(model, batch), batch.targets, reduction="none")
    return Trajectories(policy, ce, batch, config, copies, config.price)


def probability(skipper: Skipper, trajectories: Trajectories) -> Tensor:
    """pi(A) of each trajectory (N,), written out: the product of its actions' probabilities, states fixed."""
    p = (torch.sigmoid(policy_logits(skipper, trajectories.policy.states)) + trajectories.bonus).clamp(max=1)
    return torch.where(trajectories.skipped, p, 1 - p).prod(dim=1)


def gradients(loss: Tensor, skipper: Skipper) -> Tensor:
    parameters = [*skipper.heads(), *skipper.adapters()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)]
    )


@pytest.fixture
def small(skipping: Any) -> Any:
    model, skipper = skipping(layers=LAYERS)
    skipper.requires_grad_(True)
    return model, skipper


@pytest.mark.parametrize("strategy", [None, RAISED], ids=["plain", "raised"])
@pytest.mark.parametrize("cost", ["layers_run", "signed"])
@pytest.mark.parametrize("reads", ["input", "output"])
@pytest.mark.parametrize("cost_gradient", ["exact", "sampled"])
def test_reinforce_is_the_gradient_of_the_expected_reward(
    cost_gradient: str, reads: str, cost: str, strategy: Strategy | None,
    skipping: Any, ragged: Ragged, rl_section: Any,
) -> None:  # fmt: skip
    """sum over masks of pi(A) grad(loss of A) = -grad of sum over masks of pi(A) R(A)."""
    model, skipper = skipping(layers=LAYERS, reads=reads)
    skipper.requires_grad_(True)
    batch = ragged((4, 1))
    config = rl_section(baseline="none", cost=cost, cost_gradient=cost_gradient, entropy=0.0)
    expected, objective = torch.zeros(()), torch.zeros(())
    total = 0.0
    for actions in all_actions(1):
        found = rolled(model, skipper, batch, actions, config, 1, strategy)
        loss, _ = found.loss(skipper, found.advantage(torch.zeros(()), None), batch.weight)
        pi = probability(skipper, found)[0]
        expected = expected + pi.detach() * loss
        objective = objective + pi * found.reward[0]
        total += float(pi.detach())
    assert total == pytest.approx(1, abs=1e-5)
    want = -gradients(objective, skipper)
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(gradients(expected, skipper), want, atol=1e-5, rtol=1e-3)


def test_the_exact_gradient_of_the_cost_varies_less(small: Any, ragged: Ragged, rl_section: Any) -> None:
    """Between draws of the masks, where the price is all that counts."""
    model, skipper = small
    batch, varies = ragged((4, 1)).repeat(2), {}
    for kind in ("exact", "sampled"):
        config, drawn = rl_section(cost_gradient=kind, price=50.0, rollouts=2, entropy=0.0), []
        for actions in all_actions(2):
            found = rolled(model, skipper, batch, actions, config, 2)
            loss, _ = found.loss(skipper, found.advantage(torch.zeros(()), None), batch.weight)
            drawn.append(gradients(loss, skipper))
        varies[kind] = torch.stack(drawn).std(dim=0).norm()
    assert varies["exact"] < varies["sampled"] / 2


@pytest.mark.parametrize("credit", ["token", "sample"])
def test_tokens_are_credited_as_configured(credit: str, small: Any, ragged: Ragged, rl_section: Any) -> None:
    """Two deciding tokens, sixteen joint masks: a token's own reward, or the row's mean, times the row's gradient."""
    model, skipper = small
    batch = ragged((3, 2))
    config = rl_section(baseline="none", credit=credit, cost_gradient="sampled", entropy=0.0)
    expected, objective = torch.zeros(()), torch.zeros(())
    for actions in all_actions(2):
        found = rolled(model, skipper, batch, actions, config, 1)
        loss, _ = found.loss(skipper, found.advantage(torch.zeros(()), None), batch.weight)
        pi = probability(skipper, found)
        joint = pi.detach().prod()
        expected = expected + joint * loss
        if credit == "sample":
            assert found.earned[0] == found.earned[1]
            objective = objective + pi.prod() * found.earned[0]
        else:  # the other token's choice is part of the environment
            for i in (0, 1):
                objective = objective + pi[i] * pi[1 - i].detach() * found.earned[i] / 2
    torch.testing.assert_close(gradients(expected, skipper), -gradients(objective, skipper), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("baseline", ["rloo", "ema", "self_critical"])
@pytest.mark.parametrize("cost_gradient", ["exact", "sampled"])
def test_baselines_leave_the_gradient_unbiased(
    cost_gradient: str, baseline: str, small: Any, ragged: Ragged, rl_section: Any
) -> None:
    """The average over all pairs of masks, each weighted by its probability."""
    model, skipper = small
    batch = ragged((4, 1)).repeat(2)
    config = rl_section(baseline=baseline, cost_gradient=cost_gradient, rollouts=2, entropy=0.0)
    expected, objective = torch.zeros(()), torch.zeros(())
    for actions in all_actions(2):
        found = rolled(model, skipper, batch, actions, config, 2)
        advantage = found.advantage(torch.tensor(0.7), torch.tensor([0.7]))
        loss, _ = found.loss(skipper, advantage, batch.weight)
        pi = probability(skipper, found)
        expected = expected + pi.detach().prod() * loss
        objective = objective + pi.prod() * found.reward.mean()
    torch.testing.assert_close(gradients(expected, skipper), -gradients(objective, skipper), atol=1e-5, rtol=1e-3)


def test_rloo_subtracts_the_mean_of_the_others() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    expected = [[1 - 4.0, 2 - 3.5, 6 - 1.5], [-1.5, -1.5, 3.0]]
    torch.testing.assert_close(leave_one_out(rewards), torch.tensor(expected))


def test_rollouts_of_a_decision_are_compared_with_each_other(small: Any, ragged: Ragged, rl_section: Any) -> None:
    """Rows of different target lengths: no trajectory is compared with another example's or another token's."""
    model, skipper = small
    batch = ragged((3, 2), (2, 4), (4, 1))
    repeated = batch.repeat(3)
    groups = by_decision(repeated, 3)
    assert groups.shape == (7, 3) and sorted(groups.flatten().tolist()) == list(range(21))
    for m, group in enumerate(groups):
        assert repeated.rows[group].tolist() == [3 * int(batch.rows[m]) + k for k in range(3)]
        assert (repeated.targets[group] == batch.targets[m]).all() and (repeated.place[group] == batch.place[m]).all()
    found = rolled(model, skipper, repeated, torch.rand(21, 2) < 0.5, rl_section(rollouts=3), 3)
    advantage = found.advantage(torch.zeros(()), None)
    for group in groups:
        torch.testing.assert_close(advantage[group], leave_one_out(found.earned[group][None])[0])
    greedy = torch.arange(7.0)
    critical = rolled(model, skipper, repeated, found.skipped, rl_section(rollouts=3, baseline="self_critical"), 3)
    for m, group in enumerate(groups):
        torch.testing.assert_close(critical.advantage(torch.zeros(()), greedy)[group], found.earned[group] - m)


def test_a_repeated_batch_is_its_rows_side_by_side(small: Any, ragged: Ragged) -> None:
    model, _ = small
    batch = ragged((3, 2), (2, 4))
    repeated = batch.repeat(2)
    assert repeated.tasks == ("any",) * 4 and float(repeated.weight.sum()) == pytest.approx(1)
    for token in range(repeated.input_ids.shape[1]):
        for row in range(4):
            n = int(repeated.owner[row, token])
            if repeated.attention_mask[row, token]:
                assert repeated.rows[n] == row and repeated.place[n] == batch.place[batch.owner[row // 2, token]]
    with torch.no_grad():
        once, twice = target_logits(model, batch), target_logits(model, repeated)
    torch.testing.assert_close(twice, torch.cat([once[:2], once[:2], once[2:], once[2:]]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("strategy", [None, RAISED], ids=["plain", "raised"])
def test_masks_are_drawn_from_the_policy(
    strategy: Strategy | None, small: Any, ragged: Ragged, rl_section: Any
) -> None:
    """Frequencies of the four masks of one prompt over many rollouts, against their enumerated probabilities."""
    model, skipper = small
    batch = ragged((3, 1))
    policy = Sampled(torch.Generator().manual_seed(0), strategy)
    many = batch.repeat(4000)
    with torch.no_grad(), skipper.using(policy, many.deciders):
        target_logits(model, many)
    drawn = torch.stack(policy.skipped, dim=1)
    for actions in all_actions(1):
        found = rolled(model, skipper, batch, actions, rl_section(), 1, strategy)
        frequency = (drawn == actions).all(dim=1).float().mean()
        assert float(frequency) == pytest.approx(float(probability(skipper, found).detach()), abs=0.03)


def test_the_log_probability_is_that_of_the_raised_policy() -> None:
    logits = torch.tensor([[-3.0, 0.0, 2.0, 0.5, 40.0]]).repeat(2, 1).requires_grad_()
    bonus = torch.tensor([[0.0, 0.3, 0.05, 0.9, 0.2]]).repeat(2, 1)
    skipped = torch.tensor([[True] * 5, [False] * 5])
    got = action_log_prob(logits, skipped, bonus)
    p = (torch.sigmoid(logits) + bonus).clamp(max=1)
    torch.testing.assert_close(got[0, :], p[0].log())
    torch.testing.assert_close(got[1, :3], (1 - p[1, :3]).log())
    torch.testing.assert_close(got[:, :3].exp().sum(dim=0), torch.ones(3))
    assert got[0, 3] == 0 and got[0, 4] == 0  # saturated: skipping is certain
    got.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("logit", [-300.0, -90.0, 90.0, 300.0])
@pytest.mark.parametrize("bonus", [0.0, 0.2])
def test_certain_controllers_have_finite_gradients(logit: float, bonus: float) -> None:
    logits = torch.full((2, 1), logit, requires_grad=True)
    skipped = torch.tensor([[True], [False]])
    value = action_log_prob(logits, skipped, torch.full((2, 1), bonus))
    (value.sum() + entropy(logits).sum()).backward()
    assert value.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()


def test_entropy_is_that_of_a_coin() -> None:
    logits = torch.tensor([-4.0, 0.0, 1.0])
    p = torch.sigmoid(logits)
    torch.testing.assert_close(entropy(logits), -(p * p.log() + (1 - p) * (1 - p).log()))


def test_rewards_price_the_layers_that_ran() -> None:
    ce, run = torch.tensor([1.0, 2.0]), torch.tensor([6.0, 3.0])
    torch.testing.assert_close(reward(ce, run, 6, 0.3, "layers_run"), torch.tensor([-1.3, -2.15]))
    # The printed formula: +1 per skip, -1 per select.
    torch.testing.assert_close(reward(ce, run, 6, 0.3, "signed"), torch.tensor([-1 + 0.3, -2.0]))


def test_advantages_carry_no_gradient() -> None:
    log_prob, advantage = torch.zeros(2, 3, requires_grad=True), torch.ones(2, requires_grad=True)
    reinforce(log_prob, advantage, torch.full((2,), 0.5)).backward()
    assert advantage.grad is None
    torch.testing.assert_close(log_prob.grad, torch.full((2, 3), -0.5))


def test_the_moving_average_lags_one_step_and_is_corrected(small: Any, ragged: Ragged, rl_section: Any) -> None:
    model, _ = small
    step = Reinforce(model, rl_section(baseline="ema"), ragged((3, 1)), 0)
    assert [round(float(step._ema(torch.tensor([r, r]))), 5) for r in (-2.0, -2.0, 1.0)] == [0, -2, -2]
    assert float(step._ema(torch.zeros(1))) == pytest.approx((-2 * (0.81 + 0.9) + 1) / 2.71, abs=1e-5)


def test_the_backbone_takes_no_part_in_the_gradient(skipping: Any, ragged: Ragged, rl_section: Any) -> None:
    model, _ = skipping(layers=LAYERS, lora=True)
    step = Reinforce(model, rl_section(), ragged((3, 1)), 0)
    loss, metrics = step(ragged((3, 2), (2, 1)), 0, 0.0)
    loss.backward()
    assert {n.split(".layers.")[-1].split(".")[1] for n, p in model.named_parameters() if p.grad is not None} == {
        "adapter",
        "head",
    }
    assert 0 <= float(metrics["skip_sampled"]) <= 0.5


def test_joint_finetuning_reaches_the_backbone_through_the_task_loss_alone(
    skipping: Any, ragged: Ragged, rl_section: Any
) -> None:
    """The states are given to the policy gradient: at weight 0 of the task loss, LoRA gets nothing."""
    for w in (0.0, 0.5):
        model, _ = skipping(layers=LAYERS, lora=True)
        train = {"steps": 4, "batch": 2, "lr": 1e-3, "max_length": 128}
        config = mixer(train=train, w_start=w, w_end=w, head_lr=1e-2)
        loss, _ = Mix(model, config, rl_section(), ragged((3, 1)))(ragged((3, 2), (2, 1)), 0, 0.0)
        loss.backward()
        lora = [p.grad for n, p in model.named_parameters() if "lora_" in n and p.grad is not None]
        heads = [p.grad for n, p in model.named_parameters() if ".head." in n and p.grad is not None]
        assert any(g.any() for g in lora) == (w > 0) and any(g.any() for g in heads)


def test_collapse_raises_alarms(rl_section: Any) -> None:
    def kinds(sampled: float, thresholded: float) -> set[str]:
        measured = {"val_skip_sampled": sampled, "val_skip_threshold": thresholded}
        return {a["kind"] for a in collapse_alarms(7, measured, rl_section(), 10)}

    assert kinds(0.4, 0.45) == set()
    assert kinds(0.8, 0.8) == {"all-skip"}
    assert kinds(0.2, 0.0) == {"none-skip"}
    assert kinds(0.215, 0.6) == {"rates-apart"}
    assert kinds(0.4, 0.0) == {"none-skip", "rates-apart"}


def test_one_rollout_cannot_be_left_out(rl_section: Any) -> None:
    with pytest.raises(ValueError, match="rollouts >= 2"):
        rl_section(rollouts=1)
