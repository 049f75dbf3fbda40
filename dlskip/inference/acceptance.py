"""How lossless decoding draws draft tokens and judges them: greedily, or by speculative sampling.

Leviathan et al. 2023, arXiv:2211.17192, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accept_greedy(drafts: Tensor, drafted: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """Keeps the drafts that the verifier would have decoded itself, up to the first that differs.

    Examples:
        >>> drafts, best = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 9, 4]])
        >>> accept_greedy(drafts, torch.tensor([3]), best)  # 5 and 6 are kept; the verifier goes on with 9
        (tensor([2]), tensor([[9]]))

    Args:
        drafts: (B, K) long.
        drafted: (B,) long, how many of its K drafts each row really made.
        best: (B, K+1) long, the verifier's likeliest token at each draft's place and after the last.

    Returns:
        How many drafts are accepted, (B,) long, and the verifier's token that follows them, (B, 1) long.
    """
    accepted = _leading(drafts == best[:, :-1], drafted)
    return accepted, best.gather(1, accepted[:, None])


def accept_sampled(
    drafts: Tensor, drafted: Tensor, q: Tensor, p: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Speculative sampling: a draft x is accepted with probability ``min(1, p(x) / q(x))``.

    The token that follows is drawn from ``norm(max(p - q, 0))`` where a draft was rejected and from ``p`` where none
    was, so that all tokens are distributed as if each had been drawn from ``p``.

    Examples:
        >>> q = torch.tensor([[[0.5, 0.5]]])  # the drafter's distribution over two tokens
        >>> p = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])  # the verifier never says token 0 here
        >>> accept_sampled(torch.tensor([[0]]), torch.tensor([1]), q, p)
        (tensor([0]), tensor([[1]]))

    Args:
        drafts: (B, K) long, drawn from ``q``.
        drafted: (B,) long, how many of its K drafts each row really made.
        q: (B, K, V) float32, the drafter's distributions.
        p: (B, K+1, V) float32, the verifier's at each draft's place and after the last.
        generator: On the device of ``p``; None = torch's own.

    Returns:
        As ``accept_greedy``.
    """
    at = drafts[:, :, None]
    draw = torch.rand(drafts.shape, generator=generator, device=p.device)
    accepted = _leading(draw * q.gather(2, at)[..., 0] < p[:, :-1].gather(2, at)[..., 0], drafted)
    weights = p[torch.arange(len(p), device=p.device), accepted]  # (B, V)
    rejecting = (accepted < drafted).nonzero().squeeze(1)
    residual = (weights[rejecting] - q[rejecting, accepted[rejecting]]).clamp(min=0)
    some = residual.sum(dim=1, keepdim=True) > 0  # False by rounding only: then p = q
    weights[rejecting] = torch.where(some, residual, weights[rejecting])
    return accepted, torch.multinomial(weights, 1, generator=generator)


def _leading(agree: Tensor, drafted: Tensor) -> Tensor:
    """Counts the True entries of (B, K) before the first False, at most ``drafted`` (B,): (B,) long."""
    made = torch.arange(agree.shape[1], device=agree.device) < drafted[:, None]
    return (agree & made).long().cumprod(dim=1).sum(dim=1)


class GreedyTokens:
    """The likeliest token, always."""

    def draft(self, logits: Tensor) -> Tensor:
        """Drafts one token per row: (B, V) -> (B, 1)."""
        return logits.argmax(dim=-1, keepdim=True)

    def verify(self, drafts: Tensor, drafted: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Judges all drafts since the last call by the verifier's logits (B, K+1, V); see ``accept_greedy``."""
        return accept_greedy(drafts, drafted, logits.argmax(dim=-1))


class SampledTokens:
    """Tokens drawn from the distribution that the rules leave, the same rules on both sides."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.q: list[Tensor] = []  # (B, V) of each draft that waits for its verdict

    def draft(self, logits: Tensor) -> Tensor:
        """Drafts one token per row: (B, V) -> (B, 1)."""
        self.q.append(logits.softmax(dim=-1))
        return torch.multinomial(self.q[-1], 1, generator=self.generator)

    def verify(self, drafts: Tensor, drafted: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Judges all drafts since the last call by the verifier's logits (B, K+1, V); see ``accept_sampled``."""
        p = logits.softmax(dim=-1)
        q = torch.stack(self.q, dim=1) if self.q else p[:, :0]
        self.q = []
        return accept_sampled(drafts, drafted, q, p, self.generator)
