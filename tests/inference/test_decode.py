"""Decoding under a policy: rows do not disturb each other, the counter tells the truth, `generate()` keeps working."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, StaticCache

from dlskip.data.batches import Encoded, collate, left_pad
from dlskip.errors import DlskipError
from dlskip.inference.decode import Decoded, decode, is_finished
from dlskip.inference.scoring import target_logits
from dlskip.models.tiny import FAMILIES, tiny
from dlskip.skip import Forced, RandomSkip, Threshold, attach
from dlskip.skip.passes import Pass
from dlskip.skip.stack import find_stack
from tests.helpers.effort import ALL, FOUR, FOUR_OR_ALL, tries

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16], [17]]
NEVER = -1  # an end-of-sequence id that no token has
SOME = torch.tensor([True, False, True, True, False, True])


def outputs(model: Any, skipper: Any, prompts: Any = PROMPTS, eos: int = NEVER, **options: Any) -> list[Decoded]:
    return decode(model, skipper, prompts, eos=eos, pad=2, max_new_tokens=6, **options)


def same(a: Decoded, b: Decoded) -> bool:
    return a.tokens == b.tokens and torch.equal(torch.stack(a.runs), torch.stack(b.runs))


def endless(model: Any) -> Any:
    model.generation_config.eos_token_id = None
    return model


def generated(model: Any, prompts: Any = PROMPTS, **options: Any) -> Tensor:
    inputs = left_pad(prompts, pad=2)
    new: Tensor = model.generate(**inputs, max_new_tokens=6, **options)[:, inputs["input_ids"].shape[1] :]
    return new


@pytest.mark.parametrize("family", FAMILIES)
def test_at_full_depth_decode_and_generate_are_the_base(family: str) -> None:
    base = endless(tiny(family))
    expected = generated(base, do_sample=False).tolist()
    assert [d.tokens for d in outputs(base, None)] == expected
    skipper = attach(base, bottleneck=4)
    found = outputs(base, skipper)
    assert [d.tokens for d in found] == expected and all(torch.stack(d.runs).all() for d in found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_fill", ["copy", "project"])
def test_a_row_decides_and_decodes_as_if_alone(family: str, kv_fill: str, skipping: Any) -> None:
    """Tokens and decisions; rows also end at different steps here, and leave the batch."""
    model, skipper = skipping(family, kv_fill=kv_fill)
    with skipper.using(Threshold(0.5)):
        endings = {d.tokens[i] for i, d in enumerate(outputs(model, skipper)[:3])}
        for eos in (NEVER, *sorted(endings)):
            together = outputs(model, skipper, eos=eos)
            alone = [outputs(model, skipper, [prompt], eos=eos)[0] for prompt in PROMPTS]
            assert all(same(*pair) for pair in zip(together, alone, strict=True))
    runs = torch.cat([torch.stack(d.runs) for d in together])
    assert runs[:, 1:-1].any() and not runs.all()


def test_for_timing_every_row_has_the_length_that_is_asked_for(skipping: Any) -> None:
    model, skipper = skipping("llama")
    free = outputs(model, skipper)
    eos = free[0].tokens[0]
    assert not outputs(model, skipper, eos=eos)[0].tokens
    timed = outputs(model, skipper, eos=eos, lengths=[4, 2, 6, 1])
    assert [d.tokens for d in timed] == [d.tokens[:n] for d, n in zip(free, [4, 2, 6, 1], strict=True)]


@settings(max_examples=tries(8), deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    family=st.sampled_from([*FAMILIES] if ALL else FOUR),
    threshold=st.sampled_from([0.3, 0.5, 0.7]),
    seed=st.integers(0, 50),
)
def test_any_batch_decodes_as_its_rows_do(
    skipping: Any, examples: Any, lengths: list[int], family: str, threshold: float, seed: int
) -> None:
    model, skipper = skipping(family)
    prompts = [e.prompt for e in examples(*((n, 1) for n in lengths), seed=seed)]
    with skipper.using(Threshold(threshold)):
        together = outputs(model, skipper, prompts)
        assert all(same(d, outputs(model, skipper, [p])[0]) for d, p in zip(together, prompts, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_skips_per_row_and_as_decode_does(family: str, skipping: Any) -> None:
    model, skipper = skipping(family)
    endless(model)
    with skipper.using(Threshold(0.5)):
        together = generated(model, do_sample=False).tolist()
        assert together == [generated(model, [prompt], do_sample=False)[0].tolist() for prompt in PROMPTS]
        assert together == [d.tokens for d in outputs(model, skipper)]
    assert together != generated(model, do_sample=False).tolist()


@pytest.mark.parametrize(
    ("family", "variant"),
    [*itertools.product(FAMILIES, ["sdpa", "eager"]), ("mistral", "window"), ("gemma3", "window")],
)
def test_decoding_is_what_teacher_forcing_says(
    family: str, variant: str, skipping: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ragged pass over the decoded tokens predicts them and makes the same decisions."""
    if variant == "window":
        monkeypatch.setitem(FAMILIES, family, FAMILIES[family] | {"sliding_window": 3})
    model, skipper = skipping(family, layers=7)  # gemma3's sixth has full attention: filled from a sliding one
    if variant == "eager":
        model.set_attn_implementation("eager")
    with skipper.using(Threshold(0.5)):
        decoded = outputs(model, skipper)
    batch = collate([Encoded(p, d.tokens, "any") for p, d in zip(PROMPTS, decoded, strict=True)], pad=2)
    with torch.no_grad(), skipper.using(Threshold(0.5), batch.deciders):
        logits = target_logits(model, batch)
    runs = torch.cat([torch.stack(d.runs) for d in decoded])
    assert torch.equal(logits.argmax(-1), batch.targets) and torch.equal(skipper.last.run_matrix(), runs)
    assert runs[:, 1:-1].any() and not runs.all()


@pytest.mark.parametrize("rule", ["majority", "any", "all"])
def test_a_shared_decision_is_the_same_for_all_rows(rule: Any, skipping: Any) -> None:
    model, skipper = skipping()
    with skipper.using(Threshold(0.5, rule)):
        decoded = outputs(model, skipper)
        assert all(torch.equal(a, b) for d in decoded for a, b in zip(d.runs, decoded[0].runs, strict=True))
        alone = outputs(model, skipper, PROMPTS[:1])[0]
    with skipper.using(Threshold(0.5)):
        assert same(alone, outputs(model, skipper, PROMPTS[:1])[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_counter_agrees_with_the_account(family: str, skipping: Any) -> None:
    """Layer executions counted at the blocks = all less those that the decoded rows say were skipped."""
    model, skipper = skipping(family)
    with skipper.using(Threshold(0.5)):
        one = outputs(model, skipper, PROMPTS[:1])[0]
    skipped_prompt, prompt, skipped_decoded, decoded = one.layer_tokens()
    assert (prompt, decoded) == (6 * 6, 5 * 6)  # six prompt tokens; the last new one is never fed back
    assert sum(skipper.counter.ran) == prompt + decoded - skipped_prompt - skipped_decoded
    assert skipper.counter.ran == skipper.counter.decided
    by_hand = [6 * one.runs[0].long(), *(r.long() for r in one.runs[1:])]
    assert skipper.counter.ran == torch.stack(by_hand).sum(dim=0).tolist()


def test_computing_what_was_to_be_skipped_is_found_out(skipping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masking passed off as skipping: blocks run whatever the policy decides."""
    model, skipper = skipping()
    monkeypatch.setattr(Pass, "selection", lambda *_: (True, None))
    with skipper.using(Forced(SOME)), pytest.raises(DlskipError, match=r"executions counted.*\n.*cannot be trusted"):
        outputs(model, skipper)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_constant_masks_need_no_cache(family: str, options: dict[str, Any], skipping: Any) -> None:
    model, skipper = skipping(family)
    endless(model)
    with skipper.using(Forced(SOME)):
        cached, recomputed = (generated(model, use_cache=flag, **options) for flag in (True, False))
    assert torch.equal(cached, recomputed)
    assert not torch.equal(cached, generated(model, **options))


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_carry_their_own_skips_along(family: str, skipping: Any) -> None:
    """The score of each returned beam is that of its tokens decoded one by one on their own."""
    model, skipper = skipping(family)
    endless(model)
    inputs = left_pad(PROMPTS, pad=2)
    with skipper.using(Threshold(0.5)):
        found = model.generate(
            **inputs, max_new_tokens=6, num_beams=4, num_return_sequences=4, length_penalty=0.0,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        assert (found.beam_indices[:, :6] % 4 != torch.arange(16)[:, None] % 4).any()  # beams did change places
        for i, (sequence, score) in enumerate(zip(found.sequences, found.sequences_scores, strict=True)):
            target = sequence[inputs["input_ids"].shape[1] :]
            example = Encoded(PROMPTS[i // 4], target.tolist(), "any")
            cache, ids, total = skipper.new_cache(), torch.tensor([example.prompt]), 0.0
            for token in example.target:
                with torch.no_grad():
                    logits = model(input_ids=ids, past_key_values=cache).logits[0, -1]
                total += float(logits.log_softmax(-1)[token])
                ids = torch.tensor([[token]])
            assert float(score) == pytest.approx(total, abs=1e-3)


def test_a_second_use_carries_nothing_over(skipping: Any) -> None:
    model, skipper = skipping()
    endless(model)
    with skipper.using(Threshold(0.5)):
        first, text = outputs(model, skipper), generated(model)
    counted = list(skipper.counter.ran)
    with skipper.using(RandomSkip(0.5)):
        outputs(model, skipper, PROMPTS[2:])
        generated(model, num_beams=2)
    with skipper.using(Threshold(0.5)):
        assert all(same(*pair) for pair in zip(first, outputs(model, skipper), strict=True))
        assert torch.equal(text, generated(model))
    assert counted == skipper.counter.ran


def test_chance_skips_at_its_rate_in_decoding(skipping: Any, examples: Any) -> None:
    model, skipper = skipping()
    prompts = [e.prompt for e in examples(*[(3, 1)] * 100)]
    with skipper.using(RandomSkip(0.2, 0.4, seed=5)):
        accounts = [d.layer_tokens() for d in outputs(model, skipper, prompts)]
    skipped_prompt, prompt, skipped, decoded = (sum(column) for column in zip(*accounts, strict=True))
    assert skipped_prompt / prompt == pytest.approx(0.2, abs=0.06)
    assert skipped / decoded == pytest.approx(0.4, abs=0.04)


@pytest.mark.parametrize("kv_fill", ["copy", "project"])
def test_a_conversation_goes_on_from_its_cache(kv_fill: str, skipping: Any) -> None:
    """A prompt in two pieces with the same masks is the prompt at once."""
    model, skipper = skipping(kv_fill=kv_fill)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad(), skipper.using(Forced(SOME)):
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :4])
        second = model(input_ids=ids[:, 4:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, atol=1e-5, rtol=1e-4)
    assert second.past_key_values.get_seq_length() == 6
    assert {layer.keys.shape[2] for layer in second.past_key_values.layers} == {6}


def test_a_cache_that_cannot_hold_skips_is_refused(skipping: Any) -> None:
    model, skipper = skipping()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        with skipper.disabled():
            used = model(input_ids=ids, past_key_values=DynamicCache()).past_key_values
        for cache in (used, StaticCache(config=model.config, max_cache_len=8)):
            with pytest.raises(DlskipError, match=r"cannot hold.*\n.*new_cache"):
                model(input_ids=ids, past_key_values=cache)
        empty = model(input_ids=ids, past_key_values=DynamicCache()).logits
        assert torch.equal(empty, model(input_ids=ids).logits)


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_embeddings_may_be_given_instead_of_ids(family: str, skipping: Any) -> None:
    model, skipper = skipping(family)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad(), skipper.using(Threshold(0.5)):
        expected = find_stack(model)(ids).last_hidden_state  # positional, as some harnesses call it
        runs = skipper.last.run_matrix()
        embedded = find_stack(model)(inputs_embeds=model.get_input_embeddings()(ids)).last_hidden_state
    assert torch.equal(embedded, expected) and torch.equal(skipper.last.run_matrix(), runs)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_backbones_keep_their_dtype_and_outputs(family: str) -> None:
    base, model = (tiny(family).to(torch.bfloat16) for _ in range(2))
    skipper = attach(model, bottleneck=4)
    inputs = left_pad(PROMPTS, pad=2)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, base(**inputs).logits)
    assert {p.dtype for p in skipper.parameters()} == {torch.float32}
    skipper.init_heads(0.9)
    with skipper.using(Threshold(0.5)):
        assert not torch.stack([r for d in outputs(model, skipper) for r in d.runs])[:, 1:-1].any()


def test_decoding_stops_when_the_answer_is_decided() -> None:
    answers = [[1, 2], [1, 3, 4], [5]]
    assert [is_finished(t, answers, eos=0) for t in ([1], [1, 2], [1, 3], [1, 3, 4], [5], [9], [1, 0])] == [
        False, True, False, True, True, True, True,
    ]  # fmt: skip
    assert not is_finished([9], None, eos=0) and is_finished([9, 0], None, eos=0)
    assert not is_finished([5], [[5], [5, 6]], eos=0)  # a longer answer may still follow


def test_closed_tasks_stop_early_and_drop_the_end_token(skipping: Any) -> None:
    model, skipper = skipping()
    free = outputs(model, skipper)
    first = [d.tokens for d in outputs(model, skipper, answers=[d.tokens[:2] for d in free])]
    assert first == [d.tokens[: len(f)] for d, f in zip(free, first, strict=True)] and {*map(len, first)} <= {1, 2}
    assert [d.tokens for d in outputs(model, skipper, answers=[[383]])] == [d.tokens[:1] for d in free]
    ended = outputs(model, skipper, eos=free[0].tokens[1])
    before = itertools.takewhile(lambda t: t != free[0].tokens[1], free[0].tokens)
    assert ended[0].tokens == list(before) and len(ended[0].runs) == len(ended[0].tokens) + 1
