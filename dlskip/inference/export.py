"""A model without some of its layers: a plain Transformers model that any engine serves."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dlskip.errors import DlskipError
from dlskip.inference.decode import Decoded
from dlskip.skip.stack import find_layers


def cut(model: Any, keep: Sequence[int]) -> Any:
    """A copy of a plain causal LM with only the layers ``keep``, in their order; weights are shared with ``model``.

    Examples:
        >>> small = cut(backbone, [0, 1, 5])
        >>> small.config.num_hidden_layers
        3

    Raises:
        DlskipError: No layer is kept, one does not exist, or skipping is attached (its adapters have no place in it).
    """
    if hasattr(model, "dlskip"):
        raise DlskipError("skipping is attached", where=type(model).__name__, mend="cut the plain backbone")
    _, _, layers = find_layers(model)
    if not keep or sorted({*keep}) != [*keep] or not 0 <= keep[0] <= keep[-1] < len(layers):
        raise DlskipError(
            f"layers {list(keep)} of {len(layers)}", where="keep", mend="existing layers, each once, in order"
        )
    shared = {id(p): p for p in (*model.parameters(), *model.buffers())}
    small = copy.deepcopy(model, shared)  # the memo hands out the tensors themselves
    stack, name, copies = find_layers(small)
    owner: Any = stack
    kept = nn.ModuleList(copies[i] for i in keep)
    for place, layer in enumerate(kept):
        parts: Any = layer.modules()
        for module in parts:
            if hasattr(module, "layer_idx"):  # where its keys and values stand in a cache
                module.layer_idx = place
    setattr(owner, name, kept)
    for config in {id(c): c for c in (small.config, owner.config, small.config.get_text_config(decoder=True))}.values():
        config.num_hidden_layers = len(kept)
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[i] for i in keep]
    return small


def usage(decoded: Sequence[Decoded]) -> list[float]:
    """The share of tokens, of prompts and outputs together, that ran each layer: L numbers.

    Examples:
        >>> prompt, token = torch.tensor([True, True, True]), torch.tensor([True, False, True])
        >>> usage([Decoded(prompt_tokens=3, tokens=[7, 8], runs=[prompt, token])])
        [1.0, 0.75, 1.0]
    """
    ran = torch.stack([d.prompt_tokens * d.runs[0].double() + sum(r.double() for r in d.runs[1:]) for d in decoded])
    tokens = sum(d.prompt_tokens + len(d.runs) - 1 for d in decoded)
    return (ran.sum(dim=0) / tokens).tolist()
