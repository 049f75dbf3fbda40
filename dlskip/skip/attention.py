"""Which attention kernels may see rows that attend to nothing.

A batch that is padded on the left has such rows: its padding. Nothing defines what attention gives there. cuDNN's
kernel, torch's default on recent GPUs, was seen to give gradients that are not finite (H100, torch 2.11, fine-tuning in
bfloat16), and a NaN spreads to all weights. The other kernels give finite numbers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SAFE = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # on CUDA


def safe_attention(device: torch.device | str) -> AbstractContextManager[Any]:
    """Leaves out the attention kernels that are not finite for padding, where ``device`` has any.

    Examples:
        >>> with safe_attention(model.device):
        ...     loss = model(**inputs, labels=inputs["input_ids"]).loss
    """
    return sdpa_kernel(SAFE) if torch.device(device).type == "cuda" else nullcontext()
