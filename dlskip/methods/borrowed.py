"""A method that trains nothing, on weights that were trained for ours: ``grid.borrowed``, off by default.

Such a method is called ``<method>_on_<weights>``: ``unified_on_ours`` drops evenly spaced layers of ours. Against ours
it tells what the controllers' choice of layers is worth, with the weights the same.
"""

from __future__ import annotations

from pathlib import Path

from dlskip.config import Params
from dlskip.errors import DlskipError
from dlskip.methods import base
from dlskip.methods.base import Method
from dlskip.methods.baselines import of_file
from dlskip.methods.settings import FULL, BatchRule, PlannedSetting, borrowed
from dlskip.models import artifact
from dlskip.skip import Policy


class Borrowed(Method):
    """Which layers run is said by another method; adapters and weights are those of ``weights``.

    Args:
        method: The method that says it.
        weights: ``skip_pretrain`` or ``ours``.
    """

    def __init__(self, method: Method, weights: str) -> None:
        self.name = f"{method.name}_on_{weights}"
        self.method = method
        self.weights = weights

    def make(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        """The method's settings, after one with nothing skipped, where their curve begins."""
        lent = artifact.directory(self.weights, backbone, seed)
        planned = self.method.on(params, backbone, lent, adapters=True)
        return [planned[0].model_copy(update={"setting": FULL, "skip": []}), *planned]

    def policy(self, planned: PlannedSetting, task: str, batch: BatchRule) -> Policy:
        return self.method.policy(planned, task, batch)

    def sources(self) -> list[Path]:
        return [*super().sources(), *self.method.sources()]


def of_name(name: str) -> Borrowed:
    """The method of such a name.

    Raises:
        DlskipError: It is no such name.
    """
    if (found := borrowed(name)) is None:
        raise DlskipError(f"{name!r} is not <method>_on_<weights>", where="params.yaml: grid.borrowed")
    return Borrowed(of_file(found[0]), found[1])


def make_borrowed(params: Params, name: str, backbone: str, seed: int) -> None:
    """Writes its plan (stage ``borrowed``)."""
    base.make_plan(of_name(name), params, backbone, seed)
