"""The price of a layer in training: given, or adapted so that the policy skips a given share (docs/method.md §4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

RATE = 0.1  # how fast the price follows a gap that stays, per step, in log units per unit of share
GAIN = 3.0  # how far the price leans against the gap of this step; without it price and policy swing around each other


class Price(nn.Module):
    """Lambda of one run.

    With a share it is the multiplier of the constraint that the policy skips this share of the layers on average: it
    rises while the policy skips less and falls while it skips more, so that it ends where both agree (dual ascent).

    Args:
        start: Lambda at the first step.
        share: The share of skipped layers to reach, in [0, 1); None: lambda stays.

    Examples:
        >>> price = Price(0.5, share=0.4)
        >>> price.follow(torch.tensor(0.3))  # the policy skips too little
        >>> bool(price.now() > 0.5)
        True
    """

    extra_log: Tensor

    def __init__(self, start: float, share: float | None) -> None:
        super().__init__()
        self.start = start
        self.share = share
        log = math.log(start) if share is not None else 0.0
        self.register_buffer("extra_log", torch.tensor([log, log]))  # what has been learnt, and what is used now

    def now(self) -> Tensor | float:
        """Lambda of this step: a number, or a tensor () where it is adapted."""
        return self.start if self.share is None else self.extra_log[1].exp()

    def follow(self, skipped: Tensor) -> None:
        """Takes in the share () that the policy skips at this step."""
        if self.share is None:
            return
        with torch.no_grad():
            gap = self.share - skipped
            self.extra_log[0] += RATE * gap
            self.extra_log[1] = self.extra_log[0] + GAIN * gap
