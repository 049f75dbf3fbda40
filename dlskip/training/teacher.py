"""The teacher of layer-skip pretraining: what P0 is of a batch (docs/method.md §3)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dlskip.data.batches import Batch
from dlskip.inference.scoring import target_logits
from dlskip.models import tuning
from dlskip.skip import skipper_of


def teacher_logits(model: nn.Module, batch: Batch, kind: Literal["self", "frozen"]) -> Tensor:
    """The logits P0 at the predicting tokens, without gradient: (N, V), float32.

    Args:
        model: The model that is trained.
        batch: B rows, N predicting tokens.
        kind: ``self``: the model with nothing skipped. ``frozen``: the fine-tuned one without adapters, which
            ``tuning.load_teacher`` has put beside it.
    """
    if kind == "frozen":
        with tuning.teacher(model), skipper_of(model).disabled():
            return target_logits(model, batch)
    with torch.no_grad(), skipper_of(model).full_depth():
        return target_logits(model, batch)
