"""Loops of our own obey ``generation_config`` as ``generate()`` does, or refuse what they cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dlskip
from dlskip.data.batches import left_pad
from dlskip.errors import DlskipError
from dlskip.inference.decode import decode
from dlskip.inference.rules import check_room, special
from dlskip.models.tiny import tiny, tiny_tokenizer
from dlskip.skip import skipper_of
from tests.helpers.published import PROMPTS, generated, publish

RULES: dict[str, dict[str, Any]] = {
    "repetition penalty": {"repetition_penalty": 1.6},
    "suppressed": {"suppress_tokens": [24, 290, 303], "begin_suppress_tokens": [213]},
    "no n-gram twice": {"no_repeat_ngram_size": 1},
    "least length": {"min_new_tokens": 5, "eos_token_id": [24, 290, 303, 213]},
    "end tokens": {"eos_token_id": [303, 213, 90]},
    "bad words, biases": {"bad_words_ids": [[290]], "sequence_bias": {(24,): -9.0}},
    "forced end": {"forced_eos_token_id": 7},
}


@pytest.fixture
def model(tmp_path: Path, skipping: Any) -> Any:
    return dlskip.from_pretrained(publish(tmp_path, skipping).artifact)


@pytest.mark.parametrize("rule", RULES)
def test_lossless_tokens_are_those_of_generate(rule: str, model: Any) -> None:
    """In a padded batch, whose rows end apart; and our own loop's too."""
    plain = generated(model, new=8)
    model.generation_config.update(**RULES[rule], pad_token_id=2)
    inputs = left_pad(PROMPTS, pad=2)
    with dlskip.full_depth(model):
        wanted = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    done = dlskip.speculate(model, **inputs, max_new_tokens=8)
    assert torch.equal(done.sequences, wanted) and done.accepted.sum() < done.drafted.sum()
    stops, pad = special(model)
    assert pad == 2
    loop = decode(model, skipper_of(model), PROMPTS, eos=stops, pad=pad, max_new_tokens=8)
    skipping = generated(model, new=8)
    assert skipping != plain
    for one, line in zip(loop, skipping, strict=True):
        whole = [token for token in line if token not in (*stops, 2)] if stops else line
        assert one.tokens == whole


def test_sampling_options_of_the_configuration_count(model: Any) -> None:
    """Drawn among one token, sampling is greedy decoding."""
    ids = torch.tensor([PROMPTS[0]])
    wanted = dlskip.speculate(model, ids, max_new_tokens=6).sequences
    model.generation_config.update(top_k=1, temperature=0.7)
    assert torch.equal(dlskip.speculate(model, ids, max_new_tokens=6, do_sample=True).sequences, wanted)
    torch.manual_seed(0)
    free = dlskip.speculate(model, ids, max_new_tokens=6, do_sample=True, top_k=0, temperature=5.0).sequences
    assert not torch.equal(free, wanted)


@pytest.mark.parametrize("name", ["guidance_scale", "stop_strings", "max_time"])
def test_what_only_generate_can_do_is_refused(name: str, model: Any) -> None:
    setattr(model.generation_config, name, ["x"] if name == "stop_strings" else 2.0)
    for ask in (
        lambda: dlskip.speculate(model, torch.tensor([PROMPTS[0]]), max_new_tokens=2),
        lambda: decode(model, skipper_of(model), PROMPTS, eos=1, pad=2, max_new_tokens=2),
    ):
        with pytest.raises(DlskipError, match=f"{name} of generation_config is not applied here"):
            ask()


def test_what_tokenizers_and_users_give_is_taken_or_refused(model: Any) -> None:
    ids = torch.tensor([PROMPTS[0]])
    for shape in (ids[0], ids[:0], ids[:, :0]):
        with pytest.raises(DlskipError, match="input_ids of shape"):
            dlskip.speculate(model, shape, max_new_tokens=2)
    with pytest.raises(DlskipError, match="attention_mask"):
        dlskip.speculate(model, ids, torch.ones(1, 2), max_new_tokens=2)
    given = {"token_type_ids": torch.zeros_like(ids), "eos_token_id": torch.tensor([1, 5])}
    assert dlskip.speculate(model, ids, max_new_tokens=2, **given).sequences.shape == (1, 8)


def test_every_end_token_counts_and_one_that_is_lacking_is_none() -> None:
    model, tokenizer = tiny("llama"), tiny_tokenizer()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = [5, 6], None
    assert special(model, tokenizer) == ([5, 6, 1], 2)
    assert special(model) == ([5, 6], 5) and special(model, eos=[]) == ([], 0)
    tokenizer.eos_token = tokenizer.pad_token = None
    model.generation_config.eos_token_id = None
    assert special(model, tokenizer) == ([], 0)


@pytest.mark.parametrize(("family", "fits"), [("gpt2", False), ("opt", False), ("llama", True)])
def test_learned_positions_end_somewhere(family: str, fits: bool) -> None:
    model = tiny(family)
    check_room(model, 512)
    if fits:
        check_room(model, 513)
        return
    with pytest.raises(DlskipError, match=r"513 tokens.*the model has 512 positions"):
        check_room(model, 513)
