"""No token attends to nothing, whatever kernel computes the attention.

A batch that is padded on the left has tokens that may attend to nothing: its padding. Nothing defines what attention
gives there. cuDNN's kernel, torch's default on recent GPUs, was seen to give gradients that are not finite (H100, torch
2.11, fine-tuning in bfloat16), and a NaN spreads to all weights. Two things are done about it, on every device but the
CPU, whose kernels all give finite numbers (tests/training/test_attention.py):

- Masks are mended where Transformers makes them: a token that may attend to nothing may attend to everything. Nobody
  attends to such a token, so no other token changes by a bit.
- On CUDA, cuDNN's kernel is left out too. With mended masks it should not be needed; that was not measured yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

SAFE = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # on CUDA
MASKED = ("sdpa", "eager")  # the implementations whose mask says for each token what it attends to


def mended(mask: Tensor) -> Tensor:
    """A mask in which every token may attend to something: where it could attend to nothing, to everything.

    Examples:
        >>> mended(torch.tensor([[False, False], [False, True]]))
        tensor([[ True,  True],
                [False,  True]])

    Args:
        mask: (..., T, S) bool, True = may attend, or of a float dtype, to be added to the scores.

    Returns:
        A mask of the same shape and dtype.
    """
    if mask.dtype == torch.bool:
        return mask | ~mask.any(dim=-1, keepdim=True)
    return mask.masked_fill(mask.amax(dim=-1, keepdim=True) <= torch.finfo(mask.dtype).min, 0)


@contextmanager
def mended_masks() -> Iterator[None]:
    """Inside of it Transformers makes mended masks, for every model. It may be nested, and entered by several threads.

    Examples:
        >>> with mended_masks():
        ...     out = model(**inputs)
    """
    _MENDING.enter()
    try:
        yield
    finally:
        _MENDING.leave()


@contextmanager
def safe_attention(device: torch.device | str) -> Iterator[None]:
    """Keeps padding from giving numbers that are not finite on ``device``; changes nothing for a CPU.

    Examples:
        >>> with safe_attention(model.device):
        ...     loss = model(**inputs, labels=inputs["input_ids"]).loss
    """
    kind = torch.device(device).type
    with ExitStack() as stack:
        if kind != "cpu":
            stack.enter_context(mended_masks())
        if kind == "cuda":
            stack.enter_context(sdpa_kernel(SAFE))
        yield


class _Mending:
    """Replaces the functions that make masks while anyone is inside of ``mended_masks``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: dict[str, Callable[..., Any]] = {}

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = {name: ALL_MASK_ATTENTION_FUNCTIONS[name] for name in MASKED}
                for name, make in self._before.items():
                    ALL_MASK_ATTENTION_FUNCTIONS[name] = partial(_mended_mask, make)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                registered = AttentionMaskInterface()  # a fresh one has what is registered, and nothing of its own
                for name, make in self._before.items():
                    if make is registered[name]:
                        del ALL_MASK_ATTENTION_FUNCTIONS[name]
                    else:
                        ALL_MASK_ATTENTION_FUNCTIONS[name] = make


def _mended_mask(make: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    mask = make(*args, **kwargs)
    return mended(mask) if isinstance(mask, Tensor) else mask  # None: causal, without padding


_MENDING = _Mending()
