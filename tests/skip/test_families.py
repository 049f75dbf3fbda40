"""Families that are not known by name: what their layers take and return is found out, or they are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlavaConfig, LlavaForConditionalGeneration, StaticCache, set_seed

from dlskip.data.batches import left_pad
from dlskip.errors import DlskipError
from dlskip.inference.scoring import target_logits
from dlskip.models.tiny import FAMILIES, tiny
from dlskip.skip import Forced, FullDepth, Policy, Skipper, Threshold, attach
from dlskip.skip.narrow import Roles, narrowed
from dlskip.skip.selection import Selection
from tests.helpers.families import FURTHER, REFUSED, further

CLOSE = {"atol": 2e-4, "rtol": 1e-3}
PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
MIXED = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 1], [1, 0, 0, 1]], dtype=torch.bool)


def attached(model: Any) -> Skipper:
    """Skipping with adapters and controllers that matter."""
    skipper = attach(model, bottleneck=8)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in [*skipper.adapters(), *skipper.heads()]:
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return skipper


@pytest.mark.parametrize("family", FURTHER)
def test_skipping_is_computing_all_and_masking(family: str, ragged: Any, masked_logits: Any) -> None:
    """Whole batches, whole rows, single tokens; the rows are padded."""
    model = further(family)
    base = model(**left_pad(PROMPTS, pad=2)).logits
    skipper = attached(model)
    with skipper.disabled():
        assert torch.equal(model(**left_pad(PROMPTS, pad=2)).logits, base)
    batch = ragged((4, 3), (1, 2), (3, 1))
    batch = batch.__class__(**{**batch.__dict__, "input_ids": batch.input_ids % 128})
    by_token = torch.rand(len(batch.rows), 4, generator=torch.Generator().manual_seed(2)) > 0.5
    by_token[:, 0] = by_token[:, -1] = True
    with torch.no_grad():
        for runs in (MIXED, MIXED[:1].expand(3, -1)):
            with skipper.using(Forced(runs)):
                torch.testing.assert_close(
                    target_logits(model, batch), masked_logits(model, skipper, batch, runs), **CLOSE
                )
        with skipper.using(Forced(by_token), batch.deciders):
            found = target_logits(model, batch)
        torch.testing.assert_close(found, masked_logits(model, skipper, batch, by_token[batch.owner]), **CLOSE)


def new_tokens(model: Any, prompts: list[list[int]] = PROMPTS, new: int = 5, **options: Any) -> list[list[int]]:
    inputs = left_pad(prompts, pad=2)
    ids = model.generate(**inputs, max_new_tokens=new, do_sample=options.pop("do_sample", False), **options)
    return ids[:, inputs["input_ids"].shape[1] :].tolist()  # type: ignore[no-any-return]


def assisted_is_greedy(model: Any) -> None:
    for options in ({"prompt_lookup_num_tokens": 2}, {"assistant_model": model}):
        assert new_tokens(model, [[5, 6, 7, 5, 6]], **options) == new_tokens(model, [[5, 6, 7, 5, 6]])


def rows_are_alone(model: Any) -> None:
    assert new_tokens(model) == [new_tokens(model, [prompt])[0] for prompt in PROMPTS]


def a_given_cache_goes_on(model: Any) -> None:
    ids, cache, found = torch.tensor([[5, 6, 7]]), DynamicCache(config=model.config), []
    for _ in range(4):
        ids = model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
        found.append(int(ids))
    assert cache.get_seq_length() == 6 and [found] == new_tokens(model, [[5, 6, 7]], new=4)


def everything_is_returned(model: Any) -> None:
    """An entry of the right shape for every layer and step."""
    for options in ({}, {"num_beams": 2, "num_return_sequences": 2}):
        out = model.generate(
            **left_pad(PROMPTS, pad=2), max_new_tokens=3, do_sample=False, output_attentions=True, output_scores=True,
            output_hidden_states=True, output_logits=True, return_dict_in_generate=True, **options,
        )  # fmt: skip
        rows = 3 * options.get("num_beams", 1)
        assert len(out.attentions) == len(out.hidden_states) == len(out.scores) == 3
        for step, (attentions, states) in enumerate(zip(out.attentions, out.hidden_states, strict=True)):
            assert [a.shape[:3] for a in attentions] == [(rows, 4, 1 if step else 5)] * 4
            assert [h.shape for h in states] == [(rows, 1 if step else 5, 32)] * 5


def embeddings_stand_for_ids(model: Any) -> None:
    inputs = left_pad(PROMPTS, pad=2)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    if "inputs_embeds" in str(model.prepare_inputs_for_generation.__code__.co_varnames):
        ids = model.generate(
            inputs_embeds=embeds, attention_mask=inputs["attention_mask"], max_new_tokens=5, do_sample=False
        )
        assert ids.tolist() == new_tokens(model)


def draws_are_seeded(model: Any) -> None:
    drawn = []
    for _ in range(2):
        set_seed(3)
        drawn.append(new_tokens(model, do_sample=True, num_beams=2))
    assert drawn[0] == drawn[1]


CHECKS: list[Callable[[Any], None]] = [
    assisted_is_greedy, rows_are_alone, a_given_cache_goes_on, everything_is_returned, embeddings_stand_for_ids,
    draws_are_seeded,
]  # fmt: skip
POLICIES: dict[str, Callable[[], Policy]] = {
    "full depth": FullDepth, "forced": lambda: Forced(MIXED[0]), "threshold": lambda: Threshold(0.5),
}  # fmt: skip


@pytest.mark.parametrize("family", FURTHER)
@pytest.mark.parametrize("policy", POLICIES)
def test_generation_is_what_it_is_without_skipping(family: str, policy: str) -> None:
    """What Transformers' own tests of generation ask of any model, under each kind of policy."""
    model = further(family)
    model.set_attn_implementation("eager")
    skipper = attached(model)
    skipper.policy = POLICIES[policy]()
    with torch.no_grad():
        for check in CHECKS:
            check(model)
    ran = skipper.counter.ran
    assert ran[0] == ran[-1] and (ran[1] < ran[0] or policy != "forced")


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_skipped_is_refused_with_the_reason(family: str) -> None:
    model = further(family)
    with pytest.raises(DlskipError, match=REFUSED[family][1]):
        attach(model, bottleneck=8)
    assert not hasattr(model, "dlskip") and "generate" not in vars(model)
    assert not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_finding_out_leaves_no_trace(family: str) -> None:
    """Modes, random numbers and weights are as they were; the first answers are the same."""
    model = tiny(family).train()
    state, before = torch.get_rng_state(), {n: p.clone() for n, p in model.state_dict().items()}
    attach(model, bottleneck=0)
    assert torch.equal(torch.get_rng_state(), state) and all(module.training for module in model.modules())
    assert all(torch.equal(x, model.state_dict()[n]) for n, x in before.items())


@pytest.mark.parametrize("vision", [4, 3], ids=["as deep as the text", "of another depth"])
def test_of_an_image_text_model_the_text_layers_are_skipped(vision: int) -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    seen = {**sizes, "model_type": "clip_vision_model", "num_hidden_layers": vision, "image_size": 28, "patch_size": 14}
    told = {**sizes, "model_type": "llama", "num_hidden_layers": 4, "vocab_size": 100}
    model = LlavaForConditionalGeneration(LlavaConfig(text_config=told, vision_config=seen, image_token_id=99)).eval()
    skipper = attach(model, bottleneck=8)
    ids, image = torch.tensor([[5, *[99] * 4, 7]]), torch.randn(1, 3, 28, 28)
    with torch.no_grad(), skipper.using(Forced(torch.tensor([1, 0, 0, 1]))):
        model(input_ids=ids, pixel_values=image)
    assert skipper.counter.ran == [6, 0, 0, 6]


def test_a_window_inside_a_layer_is_refused_where_tokens_are_apart(ragged: Any) -> None:
    options = {"num_heads": 4, "num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 4}
    FURTHER["gpt_neo"] = options
    try:
        model = further("gpt_neo")
    finally:
        del FURTHER["gpt_neo"]
    skipper = attached(model)
    skipper.policy = Threshold(0.5)
    rows_are_alone(model)
    batch = ragged((4, 3), (1, 2))
    runs = torch.ones(len(batch.rows), 4, dtype=torch.bool)
    runs[1, 1] = False
    with pytest.raises(DlskipError, match="keeps a window"), skipper.using(Forced(runs), batch.deciders):
        target_logits(model, batch.__class__(**{**batch.__dict__, "input_ids": batch.input_ids % 128}))


def test_a_tensor_of_unknown_layout_is_refused() -> None:
    rows = Selection(torch.tensor([1]))
    known = {"alibi": Roles(3, rows=0, each=4)}
    alibi = torch.arange(3 * 4 * 5.0).view(12, 1, 5)
    taken: Tensor = narrowed({"alibi": alibi}, known, rows, (3, 5), 0)["alibi"]
    assert torch.equal(taken, alibi[4:8])
    for name, x in (("more", torch.zeros(3, 5)), ("alibi", torch.zeros(11, 1, 5)), ("alibi", torch.zeros(12, 5))):
        with pytest.raises(DlskipError, match="not known which part"):
            narrowed({name: x}, known, rows, (3, 5), 0)


def test_caches_that_cannot_hold_skips_are_named() -> None:
    model = tiny("llama")
    attached(model)
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(DlskipError, match="an offloaded cache cannot hold"):
        model.generate(ids, max_new_tokens=2, cache_implementation="offloaded")  # type: ignore[operator]
    with pytest.raises(DlskipError, match="a StaticCache cannot hold"):
        model(input_ids=ids, past_key_values=StaticCache(config=model.config, max_cache_len=8))
