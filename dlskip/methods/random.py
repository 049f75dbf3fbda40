"""Chance as a control: random masks at the rates measured for ours, on the same weights and batches.

It has no settings and no artifact of its own; ours' evaluation runs it after each of its settings.
"""

from __future__ import annotations

from dlskip.config import Params
from dlskip.methods.base import Method
from dlskip.methods.settings import PlannedSetting
from dlskip.skip import Policy, RandomSkip

TITLE = "Random, matched rate"


class Random(Method):
    """What skipping at ours' rates is worth if chance chooses the layers."""

    name = "random"

    def settings(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        return []

    def matching(self, prefill: float, decoding: float, seed: int) -> Policy:
        """The policy that skips these shares of the prompts' and of the decoded tokens' layers."""
        return RandomSkip(prefill, decoding, seed=seed)


METHOD = Random()
