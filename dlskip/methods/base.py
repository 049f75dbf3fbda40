"""What a method is: how it is made, and the settings it is evaluated at.

A baseline's stage writes ``artifacts/<method>/<backbone>-<seed>/plan.json``: its settings, and hashes of the weights
of other artifacts and of the method's own code, so that a change of either makes the evaluation stale.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from dlskip import files
from dlskip.config import Params
from dlskip.errors import DlskipError, offences
from dlskip.methods.settings import ALL, BatchRule, PlannedSetting, Setting
from dlskip.models import artifact
from dlskip.models.backbone import layer_count
from dlskip.skip import Forced, FullDepth, Policy

PLAN = "plan.json"


class Plan(BaseModel):
    """``plan.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    weights_sha256: dict[str, str]
    code_sha256: str
    settings: list[PlannedSetting]


class Method:
    """A row of the tables. Subclasses say how it is made; by default its layers are dropped for every token."""

    name: str
    learned = False  # whether trained controllers decide, so that a setting is to be chosen on validation rows

    def on(self, params: Params, backbone: str, weights: Path, *, adapters: bool = False) -> list[PlannedSetting]:
        """Works out, or measures, the settings to evaluate on given weights, for which nothing is trained.

        Args:
            params: All parameters.
            backbone: A name under ``backbones``.
            weights: The artifact that is loaded.
            adapters: Whether its adapters are loaded too.
        """
        raise NotImplementedError

    def make(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        """The settings to evaluate (stage ``baselines``): by default those on the fine-tuned model."""
        return self.on(params, backbone, artifact.directory("vanilla", backbone, seed))

    def train(self, params: Params, backbone: str, seed: int, share: float) -> None:
        """Trains the model of one of ``evaluate.shares``, if the method has some (stage ``train_baselines``)."""
        raise NotImplementedError

    def train_once(self, params: Params, backbone: str, seed: int) -> None:
        """Trains the one model of a method that has one for all of its settings (stage ``train_once``)."""
        raise NotImplementedError

    def sources(self) -> list[Path]:
        """The files whose code decides what is planned."""
        return [Path(str(sys.modules[type(self).__module__].__file__))]

    def settings(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        """The settings to evaluate: by default those of the plan.

        Raises:
            DlskipError: There is no plan, or it is malformed.
        """
        return read_plan(artifact.directory(self.name, backbone, seed)).settings

    def policy(self, planned: PlannedSetting, task: str, batch: BatchRule) -> Policy:
        """Who decides about a task's tokens under a batch rule."""
        return dropping(planned.skip, planned.layers) if planned.skip else FullDepth()


def dropping(skip: list[int], layers: int, *, frees_last: bool = False) -> Forced:
    """The policy that skips the same layers for every token.

    Examples:
        >>> dropping([2, 3], layers=6).runs
        tensor([[ True,  True, False, False,  True,  True]])
    """
    runs = torch.ones(layers, dtype=torch.bool)
    runs[skip] = False
    return Forced(runs, frees_last=frees_last)


def for_shares(
    params: Params, backbone: str, weights: Path, skips: Callable[[float, int], list[int]], *, adapters: bool = False,
    growing: dict[str, int] | None = None,
) -> list[PlannedSetting]:  # fmt: skip
    """A planned setting for each of ``evaluate.shares``, all of the same weights.

    Args:
        params: All parameters.
        backbone: A name under ``backbones``.
        weights: The artifact that is loaded.
        skips: From a share and the number of layers to the layers that are skipped.
        adapters: Whether the artifact's adapters are loaded too.
        growing: By task, the target length over which the number of skipped layers grows.
    """
    layers = layer_count(backbone, params.backbones[backbone])
    return [
        PlannedSetting(
            setting=Setting(share=share), weights=str(weights), adapters=adapters, layers=layers,
            skip=skips(share, layers), growing=growing or {},
        )
        for share in params.evaluate.shares
    ]  # fmt: skip


def on_own(planned: list[PlannedSetting], out: Path, *, one: bool = False) -> list[PlannedSetting]:
    """The settings of a method that trains: each share on the model of its own, or all on the ``one`` model."""
    return [p.model_copy(update={"weights": str(out / (ALL if one else str(p.setting.share)))})
            for p in planned]  # fmt: skip


def make_plan(method: Method, params: Params, backbone: str, seed: int) -> None:
    """Works out a method's settings and writes its plan."""
    settings = method.make(params, backbone, seed)
    write_plan(method.name, artifact.directory(method.name, backbone, seed), settings, method.sources())


def write_plan(method: str, directory: Path, settings: list[PlannedSetting], sources: Sequence[Path]) -> None:
    """Writes ``plan.json`` with the hashes of other artifacts' weights that it names and of the method's files."""
    directory.mkdir(parents=True, exist_ok=True)
    used = sorted({planned.weights for planned in settings})
    others = [w for w in used if not Path(w).is_relative_to(directory)]  # what lies beside the plan is a dep itself
    plan = Plan(
        method=method, weights_sha256={w: artifact.weights_sha256(Path(w)) for w in others}, settings=settings,
        code_sha256=hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest(),
    )  # fmt: skip
    files.write_text(directory / PLAN, plan.model_dump_json(indent=1) + "\n")


def read_plan(directory: Path) -> Plan:
    """Reads ``plan.json``.

    Raises:
        DlskipError: It is missing or malformed.
    """
    path = directory / PLAN
    if not path.is_file():
        raise DlskipError("no such file", where=str(path), mend="dvc repro")
    try:
        return Plan.model_validate(files.read_json(path, "dvc repro"))
    except ValidationError as error:
        known = [*PlannedSetting.model_fields, *Setting.model_fields]
        raise DlskipError(offences(error, known), where=str(path), mend="dvc repro") from error
