"""A decoder-only model's parts: the layers, the stack that runs them, the output layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dlskip.errors import DlskipError

NAME = "dlskip"  # the attribute of the causal LM that holds the Skipper


def causal_lm(model: Any) -> Any:
    """The Transformers model under PEFT's wrapper, or the model itself.

    Examples:
        >>> causal_lm(backbone) is backbone
        True
    """
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def find_layers(model: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    """The decoder layers of a decoder-only model, PEFT-wrapped or not: (the module that owns them, attribute, list).

    Examples:
        >>> owner, attribute, layers = find_layers(backbone)
        >>> attribute, len(layers)
        ('layers', 6)

    Raises:
        DlskipError: An encoder-decoder, or no list of ``num_hidden_layers`` layers is found.
    """
    base = causal_lm(model)
    config = base.config.get_text_config(decoder=True)
    if base.config.is_encoder_decoder:
        raise DlskipError("encoder-decoder models are not supported", where=type(base).__name__)
    count = config.num_hidden_layers
    found = [
        (owner, attribute, child)
        for name, owner in base.named_modules()
        for attribute, child in owner.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count and name.partition(".")[0] != NAME
    ]
    # A vision tower or a mixture of experts may be as long; modules come from the outside in.
    of_text = [one for one in found if getattr(one[0], "config", None) is config]
    bare = [one for one in found if not hasattr(one[0], "config")]
    chosen = of_text or (bare if len(bare) == len(found) else [])
    if not chosen:
        raise DlskipError(f"no list of {count} decoder layers found in its text decoder", where=type(base).__name__)
    inside = {id(module) for module in chosen[0][0].modules()}
    if any(id(owner) not in inside for owner, _, _ in chosen):
        raise DlskipError(f"several lists of {count} layers: which are the decoder's?", where=type(base).__name__)
    return chosen[0]


def find_stack(model: nn.Module) -> nn.Module:
    """The module with the embedding (eq 1) and the stack of layers (eq 2), up to the last hidden state, normalised.

    Examples:
        >>> find_stack(backbone)(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state.shape
        torch.Size([1, 3, 32])
    """
    return find_layers(model)[0]


def output_logits(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """The LM head on chosen positions only (eq 3): hidden states (N, D) -> logits (N, V), float32.

    Examples:
        >>> output_logits(backbone, torch.zeros(2, 32)).shape
        torch.Size([2, 384])
    """
    base = causal_lm(model)
    logits: torch.Tensor = base.get_output_embeddings()(hidden).float()
    cap = getattr(base.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap
