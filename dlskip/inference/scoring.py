"""Shared by all steps: forwards that evaluate the LM head only where a target is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dlskip.data.batches import Batch
from dlskip.skip.packing import packed_mask
from dlskip.skip.stack import find_stack, output_logits


def hidden_states(model: nn.Module, batch: Batch) -> Tensor:
    """Last hidden states at the N predicting tokens: (N, D)."""
    stack = find_stack(model)
    inputs: dict[str, Any] = batch.inputs
    if batch.packed:
        inputs["attention_mask"] = packed_mask(stack, batch.position_ids)
    out = stack(**inputs, use_cache=False)
    hidden: Tensor = out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]
    return hidden[batch.rows, batch.tokens]


def target_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits at the N predicting tokens: (N, V), float32."""
    return output_logits(model, hidden_states(model, batch))
