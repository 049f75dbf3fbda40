"""Resumable checkpoints without pickles: tensors in safetensors, the rest in JSON, replaced atomically.

They live in ``.resume/``, outside the pipeline's outputs (which are deleted before a stage runs), under a key made of
everything that determines the run; a changed parameter therefore never resumes from another run's weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dlskip import files
from dlskip.checks import check_finite
from dlskip.errors import DlskipError

CHECKPOINTS = Path(".resume")
TENSORS = ("weights.safetensors", "optimizer.safetensors")
LEFT = (".new", ".gone", ".new.gone", ".old.gone")  # what a killed run may leave beside a checkpoint
MEND_RATE = "lower the learning rate in params.yaml"


class _State(BaseModel):
    """``state.json``: the step to go on from, the log so far, and hashes of both and of the tensors' files."""

    model_config = ConfigDict(extra="forbid", strict=True)
    step: int = Field(ge=1)
    log: list[dict[str, Any]]
    sha256: dict[str, str]


def key(stage: str, **identity: Any) -> str:
    """A directory name for one run: the stage and a hash of its configuration, data, seed and start."""
    text = json.dumps(identity, sort_keys=True, default=str)
    return f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def trainable_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that are trained, and the module's own persistent ``extra_*`` buffers (moving averages)."""
    state = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}
    state |= {n: b for n, b in module.named_buffers() if n.split(".")[-1].startswith("extra_")}
    return state


def fingerprint(module: nn.Module) -> str:
    """A hash of the weights that a run starts from, so that a checkpoint is never resumed from another start."""
    digest = hashlib.sha256()
    for name, p in module.named_parameters():
        if p.requires_grad or "lora_" in name or "dlskip" in name:  # all else is the backbone, known by its name
            digest.update(name.encode())
            digest.update(p.detach().flatten().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, log: list[dict[str, Any]]) -> None:
    """Writes weights, optimizer state, the finished step count and the log so far.

    Raises:
        DlskipError: A number is not finite, or the disk is full or not writable; the previous checkpoint is left.
    """
    parts = [{k: v.contiguous() for k, v in trainable_state(module).items()}, _flatten(optimizer)]
    for tensors in parts:
        check_finite(tensors, f"{path.name}, step {step}", MEND_RATE)
    try:
        with files.aside(path) as new:
            new.mkdir()
            for name, tensors in zip(TENSORS, parts, strict=True):
                save_file(tensors, new / name)
            hashes = {name: files.sha256(new / name) for name in TENSORS} | {"state": _state_sha256(step, log)}
            (new / "state.json").write_text(json.dumps({"step": step, "log": log, "sha256": hashes}))
    except (OSError, SafetensorError) as error:  # safetensors wraps what the system says
        raise DlskipError(
            f"cannot write the checkpoint: {getattr(error, 'strerror', None) or error}", where=str(path),
            mend="free disk space and start the stage again: it resumes from the last checkpoint",
        ) from error  # fmt: skip


def resume(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, Any]]]:
    """Restores what ``save`` wrote; returns the step to go on from and the log. (0, []) if there is nothing.

    A run killed between the two renames of ``save`` leaves the previous checkpoint under another name; it is used.
    One killed within ``clear`` had written its results; what is left of its checkpoint is removed.

    Raises:
        DlskipError: The checkpoint is damaged or belongs to another model; nothing was restored from it.
    """
    previous = path.with_name(path.name + ".old")
    if not path.exists() and previous.exists():
        previous.replace(path)
    for name in LEFT:
        files.remove(path.with_name(path.name + name))
    if not path.exists():
        return 0, []
    mend = f"delete {path} to start afresh"

    def damaged(why: object) -> NoReturn:
        raise DlskipError(f"a damaged checkpoint: {why}".partition("\n")[0], where=str(path), mend=mend)

    try:
        state = _State.model_validate(json.loads((path / "state.json").read_text(encoding="utf-8")))
        found = {name: files.sha256(path / name) for name in TENSORS} | {"state": _state_sha256(state.step, state.log)}
        for name, digest in found.items():
            if state.sha256.get(name) != digest:
                damaged(f"{name} is not what was written")
        weights = load_file(path / TENSORS[0])
        moments = {tuple(n.split(".")): t for n, t in load_file(path / TENSORS[1]).items()}
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        damaged(error)
    own = trainable_state(module)
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    same = {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in own.items()}
    if not same or not {int(index) for index, _ in moments} <= parameters.keys():
        raise DlskipError("a checkpoint of another model", where=str(path), mend=mend)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])
    for (index, field), tensor in moments.items():
        p = parameters[int(index)]
        optimizer.state[p][field] = tensor if field == "step" else tensor.to(p.device)
    return state.step, state.log


def clear(path: Path) -> None:
    """Removes a finished run's checkpoint; the latest goes last, so that an earlier one is never taken for it."""
    for name in (*LEFT, ".old", ""):
        files.remove(path.with_name(path.name + name))


def _state_sha256(step: int, log: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps([step, log]).encode()).hexdigest()


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    parameters: Iterable[Any] = (p for group in optimizer.param_groups for p in group["params"])
    return {
        f"{i}.{field}": torch.as_tensor(value).contiguous()
        for i, p in enumerate(parameters)
        for field, value in optimizer.state.get(p, {}).items()
    }
