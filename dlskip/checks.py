"""Weights as they must be, read or about to be written: every tensor there, and every value a number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlskip.errors import DlskipError


def check_finite(
    tensors: Mapping[str, Tensor], where: str | Path, mend: str = "get the file again, or train again"
) -> None:
    """Refuses weights that are no numbers.

    Examples:
        >>> check_finite({"w": torch.ones(3)}, "weights.safetensors")

    Raises:
        DlskipError: A tensor holds NaN or infinity.
    """
    for name, x in tensors.items():
        if x.is_floating_point() and not bool(x.sum(dtype=torch.float32).isfinite()) and not bool(x.isfinite().all()):
            raise DlskipError(f"{name} holds NaN or infinity", where=str(where), mend=mend)


def check_complete(info: Mapping[str, Any], where: str) -> None:
    """Refuses a model of which Transformers made up some weights (``info``: its ``output_loading_info``).

    Raises:
        DlskipError: Tensors are missing, or have another shape.
    """
    lacking = sorted(info["missing_keys"]) or sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise DlskipError(
            f"{len(lacking)} tensors are missing or of another shape: {lacking[0]} ...", where=where,
            mend="get the base model's files again",
        )  # fmt: skip
