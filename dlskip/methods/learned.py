"""Our method, its ablations, and the fine-tuned model that never skips."""

from __future__ import annotations

from dlskip import artifact
from dlskip.config import Params
from dlskip.methods.base import FULL, Method, Setting, read_plan
from dlskip.skip import FullDepth, Policy, Threshold


class Vanilla(Method):
    """Fine-tuned, every layer runs."""

    name = "vanilla"

    def settings(self, params: Params, backbone: str, seed: int) -> list[Setting]:
        return [Setting(name=FULL, weights=str(artifact.directory(self.name, backbone, seed)))]


class Learned(Method):
    """The thresholded controllers, at every threshold and with nothing skipped.

    Args:
        name: ``ours``, or an ablation's name.
    """

    def __init__(self, name: str = "ours") -> None:
        self.name = name

    def settings(self, params: Params, backbone: str, seed: int) -> list[Setting]:
        """Nothing skipped, then each threshold."""
        where = artifact.directory(self.name, backbone, seed)
        weights = where if self.name == "ours" else read_plan(where).settings[0].weights
        names = [FULL, *map(str, params.evaluate.thresholds)]
        return [Setting(name=name, weights=str(weights), adapters=True) for name in names]

    def policy(self, setting: Setting, task: str, batch: str) -> Policy:
        if setting.name == FULL:
            return FullDepth()
        return Threshold(float(setting.name), "per_sample" if batch in ("1", "per_sample") else "majority")
