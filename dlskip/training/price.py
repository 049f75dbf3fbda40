"""The price of a layer in training: given, or adapted so that the policy skips a given share (docs/method.md §4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dlskip.errors import DlskipError

RATE = 0.15  # how fast the price follows a gap that stays, per step, in log units per unit of share
GAIN = 8.0  # how far the price leans against the gap of late; without it price and policy swing around each other
MEMORY = 0.8  # of the gap of late, what one step keeps: batches of other tasks skip other shares


class Price(nn.Module):
    """Lambda of one run.

    With a share it is the multiplier of the constraint that the policy skips this share of the layers on average: it
    rises while the policy skips less and falls while it skips more, so that it ends where both agree (dual ascent).

    Args:
        start: Lambda at the first step.
        share: The share of skipped layers to reach; None: lambda stays.
        layers: L, of which the first and the last always run.
        section: Of params.yaml, whose share it is.

    Raises:
        DlskipError: No policy can skip so much.

    Examples:
        >>> price = Price(0.5, share=0.4, layers=30)
        >>> price.follow(torch.tensor(0.3))  # the policy skips too little
        >>> bool(price.now() > 0.5)
        True
    """

    extra_log: Tensor
    extra_gap: Tensor

    def __init__(self, start: float, share: float | None, layers: int, section: str = "rl") -> None:
        super().__init__()
        if share is not None and share * layers > layers - 2:
            raise DlskipError(
                f"share {share:g} cannot be reached: the first and the last of {layers} layers always run",
                where=f"{section}.share", mend=f"at most {math.floor(100 * (layers - 2) / layers) / 100:g}",
            )  # fmt: skip
        self.start = start
        self.share = share
        log = math.log(start) if share is not None else 0.0
        self.register_buffer("extra_log", torch.tensor([log, log]))  # what has been learnt, and what is used now
        self.register_buffer("extra_gap", torch.zeros(()))  # of late

    def now(self) -> Tensor | float:
        """Lambda of this step: a number, or a tensor () where it is adapted."""
        return self.start if self.share is None else self.extra_log[1].exp()

    def follow(self, skipped: Tensor, share: float | None = None) -> None:
        """Takes in what the policy skips at this step, a tensor (); ``share``: what it should, if not yet all of it."""
        if self.share is None:
            return
        with torch.no_grad():
            gap = (self.share if share is None else share) - skipped
            self.extra_gap.mul_(MEMORY).add_((1 - MEMORY) * gap)
            self.extra_log[0] += RATE * gap
            self.extra_log[1] = self.extra_log[0] + GAIN * self.extra_gap
