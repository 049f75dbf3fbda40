"""The losses of layer-skip pretraining, and the policy gradient: one function per equation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``KL(p || q)`` per predicted token, from log-probabilities (N, V) in float32: (N,).

    Examples:
        >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
        >>> kl(p.log(), q.log())
        tensor([0.1438])
    """
    divergence: Tensor = torch.linalg.vecdot(log_p.exp(), log_p - log_q)
    return divergence


def cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Mean over examples of the mean over their target tokens (eq 4); ``weight`` (N,) sums to 1 (``Batch.weight``).

    Examples:
        >>> logits, targets = torch.zeros(3, 4), torch.tensor([0, 1, 2])  # every one of four tokens is as likely
        >>> cross_entropy(logits, targets, torch.tensor([0.25, 0.25, 0.5]))  # log 4
        tensor(1.3863)
    """
    return (F.cross_entropy(logits, targets, reduction="none") * weight).sum()


def skip_pretraining(
    teacher: Tensor, first: Tensor, second: Tensor, targets: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """``L_pretrain`` (eqs 7-9): ``alpha (L_distill + L_reg) + L_cls``, averaged over examples as ``cross_entropy`` is.

    Examples:
        >>> same = torch.zeros(1, 4)  # teacher and students agree: only L_cls is left, log 4
        >>> loss, parts = skip_pretraining(same, same, same, torch.tensor([0]), torch.ones(1), alpha=1.0)
        >>> loss, parts["kl_distill"]
        (tensor(1.3863), tensor(0.))

    Args:
        teacher: (N, V) logits P0 of the unskipped forward, without gradient.
        first, second: (N, V) logits P1, P2 of the students.
        targets: (N,) long.
        weight: (N,) float32, sums to 1.
        alpha: Weight of the divergences.

    Returns:
        The loss, and its parts for the log.
    """
    p0, p1, p2 = (F.log_softmax(logits, dim=-1) for logits in (teacher, first, second))  # once: V is large
    reg = (kl(p1, p2) * weight).sum()  # eq 7
    distill = ((kl(p0, p1) + kl(p0, p2)) * weight).sum()  # eq 8
    cls = (F.nll_loss(p1, targets, reduction="none") + F.nll_loss(p2, targets, reduction="none")) @ weight / 2
    loss = alpha * (distill + reg) + cls  # eq 9
    return loss, {"ce": cls.detach(), "kl_distill": distill.detach(), "kl_reg": reg.detach()}


def reward(ce: Tensor, layers_run: Tensor, layers: int, price: Tensor | float, cost: str) -> Tensor:
    """The reward ``R(A) = -CE - lambda l_n / L`` of each trajectory (eq 11).

    Examples:
        >>> ce, run = torch.tensor([1.0, 1.5]), torch.tensor([30.0, 15.0])
        >>> reward(ce, run, layers=30, price=0.5, cost="layers_run")  # the second skips half, and loses a little
        tensor([-1.5000, -1.7500])

    Args:
        ce: (N,) cross entropy of each trajectory's target.
        layers_run: (N,) number of layers run.
        layers: L; both costs are divided by it, so that lambda means the same on every backbone.
        price: lambda, one or (N,).
        cost: ``layers_run`` (the text's l_n) or ``signed`` (the formula: +1 per skip, -1 per select, as printed).
    """
    if cost == "layers_run":
        return -ce - price * layers_run / layers
    skipped = layers - layers_run
    return -ce - price * (skipped - layers_run) / layers


def expected_costs(p: Tensor, layers: int, cost: str) -> Tensor:
    """What each free layer costs on average, in units of lambda: ``l_n / L`` of the reward (eq 11), before it is drawn.

    Examples:
        >>> p = torch.tensor([[0.25, 1.0]])  # one token, two free layers, of which the second is certainly skipped
        >>> expected_costs(p, layers=4, cost="layers_run"), expected_costs(p, layers=4, cost="signed")
        (tensor([[0.1875, 0.0000]]), tensor([[-0.1250,  0.2500]]))

    Args:
        p: (N, A) skip probabilities of the A free layers.
        layers: L.
        cost: As of ``reward``.

    Returns:
        (N, A), differentiable.
    """
    return (1 - p) / layers if cost == "layers_run" else (2 * p - 1) / layers


def action_log_prob(logits: Tensor, skipped: Tensor, bonus: Tensor) -> Tensor:
    """``log pi(a | s)`` of the distribution that was sampled from, ``min(sigmoid(logit) + bonus, 1)``.

    Examples:
        >>> logits, skipped = torch.zeros(1, 2), torch.tensor([[True, False]])
        >>> action_log_prob(logits, skipped, torch.tensor([[0.0, 0.3]])).exp()  # skip with 0.5; run with 1 - 0.8
        tensor([[0.5000, 0.2000]])

    Args:
        logits: (N, A) skip logits of the A free layers.
        skipped: (N, A) bool actions.
        bonus: (N, A) what the sampling strategy added.

    Returns:
        (N, A) float32. Where the bonus saturates the probability, skipping is certain and its log-probability is 0.
    """
    plain = torch.where(skipped, F.logsigmoid(logits), F.logsigmoid(-logits))
    p = torch.sigmoid(logits) + bonus
    tiny = torch.finfo(p.dtype).tiny
    raised = torch.where(skipped, p.clamp(max=1.0), (1 - p).clamp(min=tiny)).clamp(min=tiny).log()
    return torch.where(bonus > 0, raised, plain)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of Bernoulli(sigmoid(logits)), elementwise, in nats.

    Examples:
        >>> entropy(torch.tensor([0.0, 20.0]))  # log 2, and nearly certain
        tensor([0.6931, 0.0000])
    """
    return F.softplus(logits) - logits * torch.sigmoid(logits)


def reinforce(log_prob: Tensor, advantage: Tensor, weight: Tensor) -> Tensor:
    """The loss whose gradient is minus that of the objective ``J`` (eq 12), by REINFORCE (eq 13).

    It is the weighted mean over N trajectories of ``-A sum log pi(a|s)``.

    Examples:
        >>> log_prob = torch.tensor([[-0.1, -0.2], [-0.3, -0.4]])
        >>> reinforce(log_prob, advantage=torch.tensor([1.0, -1.0]), weight=torch.tensor([0.5, 0.5]))
        tensor(-0.2000)

    Args:
        log_prob: (N, A) of the actions of each trajectory.
        advantage: Reward less its baseline, without gradient: (N,), or (N, A) where actions earn different rewards.
        weight: (N,), of each trajectory.
    """
    earned = advantage.detach()
    earned = earned[:, None] if earned.dim() == 1 else earned
    return -(weight * (earned * log_prob).sum(dim=1)).sum()


def leave_one_out(rewards: Tensor) -> Tensor:
    """RLOO advantages: each reward less the mean of the other K-1 of its row; (M, K, ...) -> (M, K, ...).

    Examples:
        >>> leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]))
        tensor([[-3.0000, -1.5000,  4.5000]])
    """
    k = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * k / (k - 1)
