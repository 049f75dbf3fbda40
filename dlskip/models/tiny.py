"""Tiny random models of every supported family, and a byte-level tokenizer: for tests and the smoke run."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from dlskip.errors import DlskipError

VOCAB = 384  # 256 bytes, a few special tokens, some merges
_COMMON: dict[str, Any] = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_LLAMA_LIKE = {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 512}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_LLAMA_LIKE},
    "gpt2": {"model_type": "gpt2", "n_positions": 512, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": {
        "model_type": "opt", "ffn_dim": 64, "max_position_embeddings": 512, "word_embed_proj_dim": 32,
        "dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0,
    },
    "falcon": {
        "model_type": "falcon", "alibi": False, "new_decoder_architecture": False, "parallel_attn": True,
        "multi_query": True, "bias": False, "hidden_dropout": 0.0, "attention_dropout": 0.0,
    },
    "qwen2": {"model_type": "qwen2", **_LLAMA_LIKE},
    "mistral": {"model_type": "mistral", **_LLAMA_LIKE, "sliding_window": None},
    "gemma3": {"model_type": "gemma3_text", **_LLAMA_LIKE, "head_dim": 8, "sliding_window": 256},
}  # fmt: skip


def tiny(family: str, *, layers: int = 6, hidden: int = 32, heads: int = 4, seed: int = 0) -> PreTrainedModel:
    """A random float32 model of a family, without a network.

    Args:
        family: One of ``FAMILIES``.
        layers, hidden, heads: L, D and the number of attention heads.
        seed: Of its weights; the global random state is left as it was.

    Raises:
        DlskipError: Unknown family.
    """
    if family not in FAMILIES:
        raise DlskipError(f"unknown family {family!r}", where=f"tiny-{family}", mend=f"one of {', '.join(FAMILIES)}")
    fields: dict[str, Any] = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    config = AutoConfig.for_model(**FAMILIES[family], **_COMMON, **fields)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Fresh initialisations are nearly the identity; larger weights make a skipped layer visible in the logits.
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p.normal_(0, 0.15)
    torch.set_rng_state(state)
    model.eval().requires_grad_(False)
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A deterministic byte-level tokenizer of ``VOCAB`` entries: any text is representable."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = ["the man saw a dog in the house", "is it true? yes no good bad", "der Mann und die Frau", "他 我 你 的"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<s>", "</s>", "<pad>"], show_progress=False, min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(text * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )
