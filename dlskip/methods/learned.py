"""Our method, its ablations, and the fine-tuned model that never skips."""

from __future__ import annotations

from dlskip.config import Params
from dlskip.methods.ablation import weights_of
from dlskip.methods.base import FULL, Method, Setting
from dlskip.models import artifact
from dlskip.skip import FullDepth, Policy, Threshold
from dlskip.skip.policy import BatchPolicy


class Vanilla(Method):
    """Fine-tuned, every layer runs."""

    name = "vanilla"

    def settings(self, params: Params, backbone: str, seed: int) -> list[Setting]:
        return [Setting(name=FULL, weights=str(artifact.directory(self.name, backbone, seed)))]


class Learned(Method):
    """The thresholded controllers, at every threshold (or price) and with nothing skipped.

    Args:
        name: ``ours``, or an ablation's name.
    """

    def __init__(self, name: str = "ours") -> None:
        self.name = name

    def settings(self, params: Params, backbone: str, seed: int) -> list[Setting]:
        """Nothing skipped, then each threshold; each price, if the controllers are told it."""
        ours = self.name == "ours"
        weights = artifact.directory(self.name, backbone, seed) if ours else weights_of(self.name, backbone, seed)
        priced = artifact.as_trained(params, weights).model.prices is not None
        prices, thresholds = (f"price {p}" for p in params.evaluate.prices), map(str, params.evaluate.thresholds)
        names = [FULL, *(prices if priced else thresholds)]
        return [Setting(name=name, weights=str(weights), adapters=True, priced=priced) for name in names]

    def policy(self, setting: Setting, task: str, batch: str) -> Policy:
        if setting.name == FULL:
            return FullDepth()
        rule: BatchPolicy = "per_sample" if batch in ("1", "per_sample") else "majority"
        number = float(setting.name.removeprefix("price "))
        return Threshold(0.5, rule, price=number) if setting.priced else Threshold(number, rule)
