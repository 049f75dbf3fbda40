"""The adapter in parallel to every layer, and the controller head on top of it (docs/method.md §1-2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Affine(nn.Module):
    """``W x + b``, started as ``nn.Linear`` is, computed in whatever dtype its input has.

    It is no ``nn.Linear``: PEFT's ``all-linear`` and quantization take every one of these for the backbone's.

    Examples:
        >>> Affine(4, 2)(torch.zeros(3, 4, dtype=torch.bfloat16)).dtype
        torch.bfloat16

    Args:
        inner, outer: Sizes of ``x`` and of the result.
    """

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        made = nn.Linear(inner, outer)
        self.in_features = inner
        self.out_features = outer
        self.weight = made.weight
        self.bias = made.bias

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., inner) to (..., outer), same dtype."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class Adapter(nn.Module):
    """Bottleneck MLP in parallel to a layer: ``A_l(h) = W2 GELU(W1 h + b1) + b2`` (eq 5).

    W2 and b2 start at zero, so a fresh model equals its backbone exactly. Parameters are kept in float32 and cast to
    the dtype of the hidden states, so that small updates are not lost in bfloat16.

    Examples:
        >>> adapter = Adapter(dim=32, bottleneck=8)
        >>> adapter(torch.randn(2, 5, 32)).abs().max()  # a fresh one adds nothing
        tensor(0., grad_fn=<MaxBackward1>)

    Args:
        dim: D, the backbone's hidden size.
        bottleneck: r << D.
    """

    def __init__(self, dim: int, bottleneck: int) -> None:
        super().__init__()
        self.down = Affine(dim, bottleneck)
        self.up = Affine(bottleneck, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Maps hidden states (..., D) to their adapted residual (..., D), same dtype."""
        x = F.linear(h, self.down.weight.to(h.dtype), self.down.bias.to(h.dtype))
        return F.linear(F.gelu(x), self.up.weight.to(h.dtype), self.up.bias.to(h.dtype))


class Head(nn.Module):
    """One-layer head on the adapter (eq 10): ``logit = W3 GELU(A_l(h_l)[last]) + b3``, float32.

    It is computed in float32 whatever dtype the model is cast to. ``sigmoid(logit)`` is the probability that the
    *next* layer is skipped. A head conditioned on the price of a layer has a second row:
    ``logit + x (W4 GELU(A_l(h_l)[last]) + b4)``, x being the scaled price (``Skipper.scaled``).

    Examples:
        >>> head = Head(dim=32)
        >>> head.init_skip(0.3)
        >>> torch.sigmoid(head(torch.randn(2, 32))).tolist()  # of two deciding tokens
        [0.3..., 0.3...]

    Args:
        dim: D, the backbone's hidden size.
        priced: Whether it is conditioned on the price.
    """

    def __init__(self, dim: int, priced: bool = False) -> None:
        super().__init__()
        self.out = Affine(dim, 2 if priced else 1)
        nn.init.zeros_(self.out.weight)

    def init_skip(self, p: float) -> None:
        """Sets the bias so that a fresh head skips with probability ``p``, at a higher price more often."""
        with torch.no_grad():
            self.out.bias[0] = math.log(p / (1 - p))
            self.out.bias[1:] = 1.0

    def forward(self, adapted: Tensor, price: Tensor | float = 0.0) -> Tensor:
        """Maps the adapter's output (N, D) at the deciding tokens to logits (N,), float32.

        Args:
            adapted: (N, D).
            price: The scaled price, one or (N,); a head that is not conditioned on it ignores it.
        """
        read: Tensor = self.out(F.gelu(adapted.to(torch.float32)))
        return read.squeeze(-1) if read.shape[-1] == 1 else read[..., 0] + price * read[..., 1]
