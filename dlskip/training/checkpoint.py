"""Resumable checkpoints without pickles: tensors in safetensors, the rest in JSON, replaced atomically.

They live in ``.resume/``, outside the pipeline's outputs (which are deleted before a stage runs), under a key made of
everything that determines the run; a changed parameter therefore never resumes from another run's weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dlskip.errors import DlskipError

CHECKPOINTS = Path(".resume")


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
        DlskipError: The disk is full or not writable; the previous checkpoint is left intact.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in trainable_state(module).items()}, temporary / "weights.safetensors")
        save_file(_flatten(optimizer), temporary / "optimizer.safetensors")
        (temporary / "state.json").write_text(json.dumps({"step": step, "log": log}))
        previous = path.with_name(path.name + ".old")
        shutil.rmtree(previous, ignore_errors=True)
        if path.exists():
            path.replace(previous)
        temporary.replace(path)
        shutil.rmtree(previous, ignore_errors=True)
    except (OSError, SafetensorError) as error:  # safetensors wraps what the system says
        shutil.rmtree(temporary, ignore_errors=True)
        raise DlskipError(
            f"cannot write the checkpoint: {getattr(error, 'strerror', None) or error}", where=str(path),
            mend="free disk space and start the stage again: it resumes from the last checkpoint",
        ) from error  # fmt: skip


def resume(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict[str, Any]]]:
    """Restores what ``save`` wrote; returns the step to go on from and the log. (0, []) if there is nothing.

    A run killed between the two renames of ``save`` leaves the previous checkpoint under another name; it is used.

    Raises:
        DlskipError: The checkpoint is damaged or belongs to another model; nothing was restored from it.
    """
    previous = path.with_name(path.name + ".old")
    if not path.exists() and previous.exists():
        previous.replace(path)
    if not path.exists():
        return 0, []
    mend = f"delete {path} to start afresh"
    try:
        state = json.loads((path / "state.json").read_text())
        step = int(state["step"])
        log = list(state["log"])
        weights = load_file(path / "weights.safetensors")
        moments = {tuple(n.split(".")): t for n, t in load_file(path / "optimizer.safetensors").items()}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DlskipError(f"a damaged checkpoint: {error}", where=str(path), mend=mend) from error
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
    return step, log


def clear(path: Path) -> None:
    """Removes a finished run's checkpoint."""
    for name in (path.name, path.name + ".new", path.name + ".old"):
        shutil.rmtree(path.with_name(name), ignore_errors=True)


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    parameters: Iterable[Any] = (p for group in optimizer.param_groups for p in group["params"])
    return {
        f"{i}.{field}": torch.as_tensor(value).contiguous()
        for i, p in enumerate(parameters)
        for field, value in optimizer.state.get(p, {}).items()
    }
