"""Our method with one part changed or left out: ``ablations.variants`` of params.yaml, each a method of its own.

A variant goes through the steps of ours, each in ``artifacts/<variant>/<backbone>-<seed>/<step>/``. A step that it
leaves out hands on the weights that came before: its artifact only names them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from dlskip.config import Params, Variant, varied
from dlskip.errors import DlskipError
from dlskip.models import artifact

# The module of dlskip.steps that holds each. Imported when asked for, so that a step does not depend on the others.
STEPS = {"skip_pretrain": "pretrain", "rl": "reinforce", "mixer": "mixer"}


def ablation(params: Params, name: str, step: str, backbone: str, seed: int) -> None:
    """Makes one step of a variant: trains it with what the variant changes, or hands on what came before.

    Raises:
        DlskipError: No variant has that name.
    """
    if name not in params.ablations.variants:
        known = ", ".join(params.ablations.variants)
        raise DlskipError(f"no variant {name!r}", where="params.yaml: ablations.variants", mend=f"one of {known}")
    variant = params.ablations.variants[name]
    out = artifact.directory(name, backbone, seed) / step
    start = _before(variant, out, backbone, seed)
    if step in variant.stages:
        train = getattr(import_module(f"dlskip.steps.{STEPS[step]}"), step)
        train(varied(params, variant), backbone, seed, start=start, out=out)
    else:
        artifact.hand_on(start, out)


def weights_of(name: str, backbone: str, seed: int) -> Path:
    """The artifact whose weights a variant ends with.

    Raises:
        DlskipError: It has not been made.
    """
    last = artifact.directory(name, backbone, seed) / list(STEPS)[-1]
    if not last.is_dir():
        raise DlskipError("no such artifact", where=str(last), mend="dvc repro")
    return artifact.with_weights(last)


def _before(variant: Variant, out: Path, backbone: str, seed: int) -> Path:
    """The artifact that a step starts from."""
    steps = list(STEPS)
    index = steps.index(out.name)
    if index == 0:
        return artifact.directory(variant.start, backbone, seed)
    return artifact.with_weights(out.with_name(steps[index - 1]))
