"""Models as they must be, read or about to be written: every file whole, every tensor there, every value a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def reading(what: str, where: str | Path, mend: str) -> Iterator[None]:
    """What libraries raise about files that are missing, broken or do not fit (there are many kinds), in one sentence.

    Raises:
        DlskipError: In the place of theirs.
    """
    try:
        yield
    except DlskipError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise DlskipError(f"cannot read {what}: {first}", where=str(where), mend=mend) from error
