"""Which attention kernels may see rows that attend to nothing.

A batch that is padded on the left has such rows: its padding. cuDNN's kernel, torch's default on recent GPUs, gives NaN
for them, forward or backward, and a NaN spreads to the whole batch. The other kernels give finite numbers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SAFE = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # on CUDA


def safe_attention(device: torch.device | str) -> AbstractContextManager[Any]:
    """Leaves out the attention kernels that are not finite for padding, where ``device`` has any.

    Example:
        >>> with safe_attention("cuda"):
        ...     loss = model(**batch).loss
    """
    return sdpa_kernel(SAFE) if torch.device(device).type == "cuda" else nullcontext()
