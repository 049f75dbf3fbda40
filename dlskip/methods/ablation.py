"""Our method with one part changed or left out: ``ablations.variants`` of params.yaml, each a method of its own."""

from __future__ import annotations

from pathlib import Path

from dlskip.config import Params, varied
from dlskip.errors import DlskipError
from dlskip.methods.base import FULL, Setting, write_plan
from dlskip.models import artifact
from dlskip.steps.mixer import mixer
from dlskip.steps.pretrain import skip_pretrain
from dlskip.steps.reinforce import rl
from dlskip.training import checkpoint

_STAGES = {"skip_pretrain": skip_pretrain, "rl": rl, "mixer": mixer}


def ablation(params: Params, name: str, backbone: str, seed: int) -> None:
    """Trains a variant's stages one after another, each in ``artifacts/<name>/<backbone>-<seed>/<stage>/``.

    Raises:
        DlskipError: No variant has that name.
    """
    if name not in params.ablations.variants:
        known = ", ".join(params.ablations.variants)
        raise DlskipError(f"no variant {name!r}", where="params.yaml: ablations.variants", mend=f"one of {known}")
    variant = params.ablations.variants[name]
    changed, out = varied(params, variant), artifact.directory(name, backbone, seed)
    start = artifact.directory(variant.start, backbone, seed)
    for stage in variant.stages:
        _STAGES[stage](changed, backbone, seed, start=start, out=out / stage, part_of=out)
        start = out / stage
    write_plan(name, out, [Setting(name=FULL, weights=str(start), adapters=True)], Path(__file__))
    checkpoint.forget(out)
