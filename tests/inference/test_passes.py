"""Passes that are neither a prompt nor one token: drafts that are verified, a second turn, a cache of one's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

import dlskip
from dlskip.errors import DlskipError
from dlskip.models.tiny import FAMILIES, tiny
from dlskip.skip import Forced, Threshold, skipper_of
from tests.helpers.effort import FOUR_OR_ALL
from tests.helpers.published import PROMPTS, generated

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])


@pytest.fixture
def made(skipping: Any) -> Any:
    def make(family: str = "llama", **options: Any) -> Any:
        model, skipper = skipping(family, **options)
        skipper.policy = Threshold(0.5)
        model.generation_config.eos_token_id = None
        return model

    return make


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_fill", ["copy", "project"])
def test_tokens_after_a_prompt_decide_one_by_one(family: str, kv_fill: str, made: Any) -> None:
    """However many a pass has; in a batch whose first row is padded."""
    model = made(family, kv_fill=kv_fill)
    skipper = skipper_of(model)
    mask = torch.ones_like(IDS)
    mask[0, 0] = 0
    together, apart = skipper.new_cache(), skipper.new_cache()
    with torch.no_grad():
        for cache in (together, apart):
            model(input_ids=IDS[:, :2], attention_mask=mask[:, :2], past_key_values=cache)
        found = model(input_ids=IDS[:, 2:], attention_mask=mask, past_key_values=together).logits
        runs = skipper.last.run_matrix().view(2, 4, -1)
        for t in range(2, 6):
            one = model(input_ids=IDS[:, t : t + 1], attention_mask=mask[:, : t + 1], past_key_values=apart).logits
            torch.testing.assert_close(found[:, t - 2], one[:, 0], atol=2e-5, rtol=1e-4)
            assert torch.equal(runs[:, t - 2], skipper.last.run_matrix())
    assert not runs.all() and (runs != runs[:, :1]).any()


@pytest.mark.parametrize("family", FOUR_OR_ALL)
@pytest.mark.parametrize("rule", ["per_sample", "majority"])
def test_assisted_decoding_gives_the_tokens_of_greedy_decoding(family: str, rule: Any, made: Any) -> None:
    model = made(family)
    skipper_of(model).policy = Threshold(0.5, rule)
    ways: list[dict[str, Any]] = [{"prompt_lookup_num_tokens": 3}, {"assistant_model": tiny(family)}]
    for prompt in ([5, 6, 7, 5, 6, 7], PROMPTS[0], [17]):
        expected = generated(model, [prompt], new=10)
        for options in ways:
            assert generated(model, [prompt], new=10, **options) == expected


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_drafting_by_an_early_exit_gives_them_too(family: str, made: Any) -> None:
    model = made(family)
    expected = generated(model, PROMPTS[:1], new=10)
    assert generated(model, PROMPTS[:1], new=10, assistant_early_exit=3) == expected
    assert model.config.num_hidden_layers == 6 and generated(model, PROMPTS[:1], new=10) == expected


def test_early_exit_leaves_a_family_that_it_does_not_know_as_it_was(made: Any) -> None:
    model = made("gpt2")
    expected = generated(model, PROMPTS[:1])
    with pytest.raises(IndexError):
        generated(model, PROMPTS[:1], assistant_early_exit=3)
    assert model.config.num_hidden_layers == 6 and generated(model, PROMPTS[:1]) == expected


def test_a_prompt_in_chunks_is_refused_where_its_end_decides(made: Any) -> None:
    model = made()
    for give in ({"prefill_chunk_size": 2}, {"generation_config": copy.deepcopy(model.generation_config)}):
        if "generation_config" in give:
            give["generation_config"].prefill_chunk_size = 2
        with pytest.raises(DlskipError, match=r"prefill_chunk_size.*\n.*dlskip.speculate"):
            model.generate(IDS, max_new_tokens=2, **give)
    some = torch.tensor([True, False, True, True, False, True])
    for context in (dlskip.full_depth(model), skipper_of(model).using(Forced(some)), skipper_of(model).disabled()):
        with context:
            assert generated(model) == generated(model, prefill_chunk_size=2)


def test_rows_that_decide_together_need_one_token_at_a_time(made: Any) -> None:
    model = made()
    skipper_of(model).policy = Threshold(0.5, "majority")
    with torch.no_grad():
        cache = model(input_ids=IDS[:, :3]).past_key_values
        with pytest.raises(DlskipError, match="cannot decide together"):
            model(input_ids=IDS[:, 3:], past_key_values=cache)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("configured", [True, False])
def test_a_cache_that_is_given_is_filled(family: str, configured: bool, made: Any) -> None:
    model = made(family)
    cache = DynamicCache(config=model.config) if configured else DynamicCache()
    ids, found = IDS[:1], []
    with torch.no_grad():
        for _ in range(5):
            ids = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            found.append(int(ids))
    assert [found] == generated(model, [IDS[0].tolist()], new=5) and cache.get_seq_length() == 10


def test_a_conversation_uses_the_cache_that_is_given(made: Any) -> None:
    model = made()
    cache = DynamicCache(config=model.config)
    first = model.generate(IDS[:1], past_key_values=cache, max_new_tokens=4, do_sample=False)
    assert cache.get_seq_length() == 9
    second = torch.cat([first, IDS[1:]], dim=1)
    with dlskip.trace(model) as report:
        model.generate(second, past_key_values=cache, max_new_tokens=4, do_sample=False)
    assert report.tokens == 1 + 6 + 3, "the first turn is not read again"
    assert cache.get_seq_length() == 19


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_attentions_have_an_entry_for_every_layer_and_row(family: str, made: Any) -> None:
    model = made(family)
    skipper = skipper_of(model)
    model.set_attn_implementation("eager")
    runs = torch.tensor([[1, 0, 1, 0, 1, 1], [1, 1, 0, 0, 1, 1]], dtype=torch.bool)
    with torch.no_grad():
        with skipper.using(Forced(runs)):
            found = model(IDS, output_attentions=True).attentions
            alone = [None, None]
        for row in range(2):
            with skipper.using(Forced(runs[row])):
                alone[row] = model(IDS[row : row + 1], output_attentions=True).attentions
    assert [a.shape for a in found] == [(2, 4, 6, 6)] * 6
    for layer, weights in enumerate(found):
        for row in range(2):
            torch.testing.assert_close(weights[row], alone[row][layer][0])  # type: ignore[index]
            assert bool(weights[row].any()) == bool(runs[row, layer])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_may_be_cast(dtype: torch.dtype, family: str, made: Any) -> None:
    model = made(family)
    dlskip.fast.use_fast_path(model)
    model.to(dtype)
    assert len(generated(model)[0]) == 6 and not skipper_of(model).last.run_matrix().all()
    if dtype == torch.float64:
        assert generated(model) == generated(model.float())


def test_lora_on_all_linears_leaves_adapters_and_controllers_alone(made: Any) -> None:
    model = made()
    peft = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    names = [name for name, _ in peft.named_parameters() if "lora_" in name]
    assert len(names) == 2 * 7 * 6 and not any("dlskip" in name for name in names)


def test_rows_with_lora_of_their_own_cannot_skip_on_their_own(made: Any) -> None:
    def config() -> LoraConfig:
        return LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)

    peft: Any = get_peft_model(made(), config(), adapter_name="a")
    peft.add_adapter("b", config())
    peft.eval()
    skipper = skipper_of(peft)
    with torch.no_grad():
        with skipper.using(Forced(torch.tensor([1, 0, 1, 1, 1, 1]))):
            assert peft(input_ids=IDS, adapter_names=["a", "b"]).logits.isfinite().all()
        mixed = torch.tensor([[1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
        with skipper.using(Forced(mixed)), pytest.raises(DlskipError, match=r"adapter_names.*\n.*majority"):
            peft(input_ids=IDS, adapter_names=["a", "b"])
