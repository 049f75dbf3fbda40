"""A decoder-only model's parts: the layers, the stack that runs them, the output layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dlskip.errors import DlskipError


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
    for owner in base.modules():
        for attribute, child in owner.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers:
                return owner, attribute, child
    raise DlskipError(f"no list of {config.num_hidden_layers} decoder layers found", where=type(base).__name__)


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
