"""Methods whose trained controllers decide: ours and its ablations."""

from __future__ import annotations

from dlskip.config import Params
from dlskip.methods.ablation import weights_of
from dlskip.methods.base import Method
from dlskip.methods.settings import FULL, BatchRule, PlannedSetting, decides_alone, prices, thresholds
from dlskip.models import artifact
from dlskip.skip import FullDepth, Policy, Threshold
from dlskip.skip.policy import BatchPolicy


class Learned(Method):
    """The thresholded controllers, at full depth and at every threshold, or price.

    Args:
        name: ``ours``, or an ablation's name.
    """

    learned = True

    def __init__(self, name: str = "ours") -> None:
        self.name = name

    def settings(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        """Full depth, then each threshold; each price, if the controllers are conditioned on it."""
        ours = self.name == "ours"
        weights = artifact.directory(self.name, backbone, seed) if ours else weights_of(self.name, backbone, seed)
        priced = artifact.as_trained(params, weights).model.prices is not None
        skipping = prices(params.evaluate.prices) if priced else thresholds(params.evaluate.thresholds)
        return [PlannedSetting(setting=s, weights=str(weights), adapters=True) for s in (FULL, *skipping)]

    def policy(self, planned: PlannedSetting, task: str, batch: BatchRule) -> Policy:
        threshold, price = planned.setting.threshold, planned.setting.price
        if threshold is None and price is None:
            return FullDepth()
        rule: BatchPolicy = "per_sample" if decides_alone(batch) else "majority"
        return Threshold(0.5 if threshold is None else threshold, rule, price=price)
