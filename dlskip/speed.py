"""Measured speed of prefill and decoding: prompts of several tasks in one batch, a fixed number of tokens, one run.

Every policy is timed in turn with full depth, and the turns are repeated, so that a machine that speeds up or slows
down does so for all of them. Speed-ups are ratios of medians.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from dlskip.decode import Decoded, decode
from dlskip.skip import Policy, Skipper


@dataclass
class Timing:
    """Seconds of one policy on one batch, one entry per turn: the prompts' pass, and a token step after it."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    skip_prefill: float = 0.0
    skip_decode: float = 0.0

    @property
    def prefill_ms(self) -> float:
        """Median of the prompts' pass, in milliseconds."""
        return 1e3 * float(np.median(self.prefill))

    @property
    def decode_ms(self) -> float:
        """Median of a token step, in milliseconds."""
        return 1e3 * float(np.median(self.decode))

    def followed_by(self, other: Timing) -> Timing:
        """This one's prefill with the decoding of ``other``."""
        return Timing(self.prefill, other.decode, self.skip_prefill, other.skip_decode)


def mixed(prompts: Sequence[Sequence[list[int]]], size: int) -> list[list[int]]:
    """``size`` prompts, one of each task in turn."""
    turns = [task[i] for i in range(max(map(len, prompts))) for task in prompts if i < len(task)]
    return [turns[i % len(turns)] for i in range(size)]


def measure(
    model: nn.Module, skipper: Skipper | None, policies: Sequence[Policy | None], prompts: list[list[int]],
    *, tokens: int, repeats: int, pad: int,
) -> list[Timing]:  # fmt: skip
    """Times each policy (None = the bare model) on the same prompts.

    Args:
        model: A causal LM.
        skipper: Its skipping, if any.
        policies: What is timed, in turn.
        prompts: Token ids, one batch.
        tokens: Token steps after the prompts' own pass; 0 times the prompts alone.
        repeats: Turns; one more comes first, to warm up.
        pad: Padding id.
    """
    timings = [Timing() for _ in policies]
    for turn in range(repeats + 1):
        for policy, timing in zip(policies, timings, strict=True):
            clock: list[float] = []
            with skipper.using(policy) if skipper is not None and policy is not None else nullcontext():
                began = time.perf_counter()
                decoded = decode(
                    model, skipper, prompts, eos=-1, pad=pad, max_new_tokens=1 + tokens,
                    lengths=[1 + tokens] * len(prompts), clock=clock,
                )  # fmt: skip
            if turn:
                timing.prefill.append(clock[0] - began)
                timing.decode += [(clock[-1] - clock[0]) / tokens] if tokens else []
            timing.skip_prefill, timing.skip_decode = _shares(decoded)
    return timings


def _shares(decoded: Sequence[Decoded]) -> tuple[float, float]:
    skipped_p, all_p, skipped_d, all_d = np.sum([d.layer_tokens() for d in decoded], axis=0)
    return float(skipped_p / all_p), float(skipped_d / max(all_d, 1))
