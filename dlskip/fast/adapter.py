"""Adapters and controllers for inference, read where the loop over layers needs them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dlskip.skip.layer import SkipLayer


class FastAdapter:
    """A layer's adapter and head; of a few tokens they are computed in float32, whose small products cost less.

    Args:
        layer: Where they are.
    """

    def __init__(self, layer: SkipLayer) -> None:
        self.module = layer.adapter
        self.head = layer.head
        if layer.adapter is not None:
            down, up = layer.adapter.down, layer.adapter.up
            self._parameters = [down.weight, down.bias, up.weight, up.bias]
            self.float32 = [x.detach().to(torch.float32) for x in self._parameters]
            self._made_of = _versions(self._parameters)

    def holds(self) -> bool:
        """Whether the parameters are what they were."""
        return self.module is None or (self._made_of is not None and _versions(self._parameters) == self._made_of)

    def __call__(self, h: Tensor, few: bool) -> Tensor | None:
        """(B, T, D) to the adapted residual, float32 if they are few; None without an adapter."""
        if self.module is None:
            return None
        if not few:
            adapted: Tensor = self.module(h)
            return adapted
        down, down_bias, up, up_bias = self.float32
        return F.linear(F.gelu(F.linear(h.to(torch.float32), down, down_bias)), up, up_bias)


def _versions(parameters: list[Tensor]) -> list[tuple[int, int]] | None:
    """Where parameters lie and how often they were written to; None if torch does not count that."""
    if any(x.is_inference() for x in parameters):
        return None
    return [(x.data_ptr(), x._version) for x in parameters]
