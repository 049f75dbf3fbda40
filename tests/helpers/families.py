"""Tiny random models of families that nothing here knows by name, unlike in what their layers take and return."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_COMMON: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 128, "max_position_embeddings": 128, "pad_token_id": 2, "bos_token_id": 0,
    "eos_token_id": None, "sliding_window": None, "dropout": 0.0, "attention_dropout": 0.0, "resid_pdrop": 0.0,
    "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip
_BY_HEADS: dict[str, Any] = {"n_embd": 32, "n_layer": 4, "n_head": 4}

# ALiBi in a tensor by rows and heads (bloom, falcon), by heads alone (mpt); tuples (bloom, mpt, gpt_neox); windows
# (gemma2), with a rotary base of their own (gemma3_text); experts; positions that are added; rotary embeddings of all
# kinds
FURTHER: dict[str, dict[str, Any]] = {
    "bloom": _BY_HEADS,
    "mpt": {"d_model": 32, "n_layers": 4, "n_heads": 4, "expansion_ratio": 2, "use_cache": True},
    "falcon": {"alibi": True, "new_decoder_architecture": False, "num_key_value_heads": None},
    "gpt_neox": {},
    "gptj": {**_BY_HEADS, "rotary_dim": 4},
    "gpt_bigcode": _BY_HEADS,
    "xglm": {"d_model": 32, "num_layers": 4, "attention_heads": 4, "ffn_dim": 64},
    "phi3": {"rope_scaling": None},
    "gemma2": {"head_dim": 8, "sliding_window": 4},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "cohere": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3": {"head_dim": 8},
}
# and why each is refused
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({}, "do not run as decoder layers do"),
    "rwkv": ({"attention_hidden_size": 32}, "keeps no keys and values of its own"),
    "qwen3_next": ({"head_dim": 8}, "keeps no keys and values of its own"),
    "recurrent_gemma": ({"sliding_window": 4}, "keeps no keys and values of its own"),
    "gemma4_text": ({"head_dim": 8, "sliding_window": 4, "vocab_size_per_layer_input": 128}, "its keys have the shape"),
    "falcon_h1": ({"head_dim": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8}, "keeps a state"),
    "openai-gpt": (_BY_HEADS, "keeps no keys and values of its own"),
}  # fmt: skip


def further(family: str, **changes: Any) -> Any:
    """A model of ``FURTHER`` or ``REFUSED``, float32, whose layers matter."""
    options = FURTHER[family] if family in FURTHER else REFUSED[family][0]
    asked = _COMMON | options | changes
    given = {name: value for name, value in asked.items() if name != "num_key_value_heads" or value}
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **given), dtype=torch.float32)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p.normal_(0, 0.15)
    model.generation_config.eos_token_id = None
    return model.eval().requires_grad_(False)
