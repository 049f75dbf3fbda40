"""Weights on their way in and out: none missing, none that is no number, and none changed without being written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from dlskip.errors import DlskipError
from dlskip.models.tuning import ALL_WEIGHTS

_WIDTH = 1024
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Fingerprint = tuple[tuple[int, ...], torch.dtype, int, int]


def backbone_tensors(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A backbone's own parameters by name, also where a PEFT adapter on top has wrapped its modules.

    Examples:
        >>> len(backbone_tensors(backbone)) == len(list(backbone.parameters()))
        True

    Args:
        model: With or without skipping, whose parameters are left out.
        state: A state dict to take the tensors from.

    Raises:
        DlskipError: ``state`` lacks one.
    """
    found = {}
    for name, parameter in model.named_parameters():
        if name.partition(".")[0] == "dlskip" or ".modules_to_save." in name:
            continue
        if "lora_" in name and not _is_quantized(model):  # of an adapter on top, which PEFT saves
            continue
        if state and name not in state:
            raise DlskipError(f"has no {name}", where="state_dict", mend="give the model's own, or none")
        tensor = state[name] if state else parameter
        found[name.replace(".base_layer", "").replace(".original_module", "")] = tensor.detach()
    return found


def fingerprints(tensors: Mapping[str, Tensor]) -> dict[str, Fingerprint]:
    """For each tensor its shape, its dtype, and two sums over its bits that tell where a bit changed.

    Examples:
        >>> before = fingerprints({"w": torch.tensor([1.0, 2.0])})
        >>> before == fingerprints({"w": torch.tensor([2.0, 1.0])})
        False
    """
    return {name: _fingerprint(x) for name, x in tensors.items()}


def _fingerprint(x: Tensor) -> Fingerprint:
    flat = x.detach().contiguous().reshape(-1)
    bits = flat.view(_INTEGERS[flat.element_size()])
    whole = bits[: len(bits) // _WIDTH * _WIDTH].view(-1, _WIDTH)
    rest = bits[whole.numel() :].to(torch.int64)
    rows, columns = whole.sum(dim=1, dtype=torch.int64), whole.sum(dim=0, dtype=torch.int64)
    sums = [int((part * _places(part)).sum()) for part in (torch.cat([rows, rest]), torch.cat([columns, rest]))]
    return tuple(x.shape), x.dtype, sums[0], sums[1]


def _places(x: Tensor) -> Tensor:
    return torch.arange(1, len(x) + 1, device=x.device) * 2654435761 + 1


def resized_as_stored(model: Any, tuned: Path) -> None:
    """Gives a base model as many embeddings as the weights in ``tuned`` were saved with, if it was tuned in full."""
    path = tuned / ALL_WEIGHTS
    if not path.is_file():
        return
    embedding = model.get_input_embeddings().weight
    name = next((n for n, p in model.named_parameters() if p is embedding), None)
    with safe_open(path, framework="pt") as stored:
        if name not in stored.keys():  # noqa: SIM118 - no dictionary
            return
        rows, width = stored.get_slice(name).get_shape()
    if rows != embedding.shape[0] and width == embedding.shape[1]:
        model.resize_token_embeddings(rows, mean_resizing=False)


def _is_quantized(model: nn.Module) -> bool:
    return getattr(model, "is_quantized", False) or any(type(m).__name__.startswith("Linear4") for m in model.modules())
