"""``output_attentions``: an entry for every layer and every row, zero where a layer was skipped."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dlskip.skip.layer import spread
from dlskip.skip.passes import Pass


def completed(output: Any, current: Pass, config: Any) -> Any:
    """What the stack returned, with attention weights (B, H, T, S) of every layer; None where that changes nothing.

    Transformers collects the weights of the blocks that were called, for the rows that they were called with.

    Args:
        output: Of the stack.
        current: The pass.
        config: The stack's.
    """
    found = getattr(output, "attentions", None)
    if not found or all(run is None for run in current.runs):
        return None
    by_layer: list[Tensor | None] = list(found)
    if len(found) < current.layers:
        left = iter(found)
        by_layer = []
        for layer in range(current.layers):
            some, selection = current.selection(layer)
            weights = next(left, None) if some else None
            if weights is not None and selection is not None:
                weights = spread(weights, selection, output.last_hidden_state)
            by_layer.append(weights)
    else:
        for layer in range(current.layers):
            weights = by_layer[layer]
            _, selection = current.selection(layer)
            if weights is not None and selection is not None and len(weights) < current.batch:
                by_layer[layer] = spread(weights, selection, output.last_hidden_state)
    kinds = getattr(config, "layer_types", None) or [None] * current.layers
    for layer, weights in enumerate(by_layer):
        if weights is None:  # as long as those of a layer of its kind: windows are shorter
            alike = [w for w, kind in zip(by_layer, kinds, strict=True) if w is not None and kind == kinds[layer]]
            like = alike or [w for w in by_layer if w is not None]
            by_layer[layer] = like[0].new_zeros(like[0].shape) if like else None
    output.attentions = tuple(by_layer)
    return output
