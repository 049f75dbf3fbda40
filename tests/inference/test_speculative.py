"""The lossless mode: skipping drafts, full depth decides, and nobody can tell from the tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from dlskip.data.batches import left_pad
from dlskip.errors import DlskipError
from dlskip.inference.acceptance import accept_greedy, accept_sampled
from dlskip.inference.speculative import Speculated, speculate
from dlskip.models.tiny import FAMILIES, tiny
from dlskip.skip import Forced, FullDepth, Policy, RandomSkip, Sampled, Threshold
from dlskip.skip.stack import find_stack
from tests.helpers.effort import FOUR_OR_ALL, tries

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16], [17]]
SOME = torch.tensor([True, False, True, True, False, True])
POLICIES = {
    "threshold": lambda: Threshold(0.5),
    "seldom": lambda: Threshold(0.9),
    "majority": lambda: Threshold(0.7, "majority"),
    "random": lambda: RandomSkip(0.2, seed=3),
    "sampled": lambda: Sampled(torch.Generator().manual_seed(3)),
    "forced": lambda: Forced(SOME),
    "full": FullDepth,
}


def speculated(model: Any, prompts: Any = PROMPTS, policy: Policy | None = None, **options: Any) -> Speculated:
    options = {"max_new_tokens": 10, "eos_token_id": [], "pad_token_id": 2} | options
    return speculate(model, **left_pad(prompts, pad=2), policy=policy, **options)


def new_tokens(out: Speculated, prompts: Any = PROMPTS) -> list[list[int]]:
    return out.sequences[:, max(map(len, prompts)) :].tolist()


def full_depth_logits(model: Any, skipper: Any, ids: list[int]) -> Tensor:
    """One row, no cache: (T, V)."""
    with torch.no_grad(), skipper.full_depth():
        logits: Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def full_depth_greedy(model: Any, skipper: Any, prompt: list[int], stop: int = -1, steps: int = 10) -> list[int]:
    """The obvious reference: one row, one token at a time, no cache."""
    ids = list(prompt)
    while len(ids) < len(prompt) + steps and (len(ids) == len(prompt) or ids[-1] != stop):
        ids.append(int(full_depth_logits(model, skipper, ids)[-1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=tries(12), deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    policy=st.sampled_from(sorted(POLICIES)),
    draft_tokens=st.integers(1, 6),
    confidence=st.sampled_from([0.0, 0.02]),
    seed=st.integers(0, 99),
    ending=st.none() | st.integers(0, 9),
)
def test_greedy_tokens_are_those_of_full_depth(
    family: str, skipping: Any, examples: Any, lengths: list[int], policy: str, draft_tokens: int, confidence: float,
    seed: int, ending: int | None,
) -> None:  # fmt: skip
    """Whatever drafts, whoever else is in the batch, and wherever a row ends."""
    model, skipper = skipping(family)
    prompts = [e.prompt for e in examples(*((n, 1) for n in lengths), seed=seed)]
    expected = [full_depth_greedy(model, skipper, prompt) for prompt in prompts]
    stop = [] if ending is None else [expected[0][ending]]
    if stop:
        expected = [line[: line.index(stop[0]) + 1] if stop[0] in line else line for line in expected]
    out = speculated(
        model, prompts, POLICIES[policy](), draft_tokens=draft_tokens, draft_confidence=confidence, eos_token_id=stop
    )
    width = max(map(len, expected))
    assert new_tokens(out, prompts) == [line + [2] * (width - len(line)) for line in expected]
    unused = out.accepted + out.passes - torch.tensor([len(line) for line in expected])  # a pass's token after an EOS
    assert all(n == 0 or (n == 1 and line[-1] in stop) for n, line in zip(unused, expected, strict=True))
    assert (out.accepted <= out.drafted).all() and (out.drafted <= draft_tokens * (out.passes - 1)).all()


@pytest.mark.parametrize("options", [{}, {"kv_fill": "project"}, {"reads": "output"}, {"lora": True}])
def test_greedy_tokens_are_those_of_generate_at_full_depth(options: dict[str, Any], skipping: Any) -> None:
    """The same tensor, by the model's own end-of-sequence and padding ids; and the skipper keeps its policy."""
    model, skipper = skipping(**options)
    inputs = left_pad(PROMPTS, pad=2)
    first = speculated(model, policy=Threshold(0.9))
    model.generation_config.eos_token_id = [new_tokens(first)[1][3], 383]
    expected = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    assert expected[1, -1] == 2
    with skipper.using(Threshold(0.9)) as policy:
        out = speculate(model, **inputs, max_new_tokens=10)
        assert skipper.policy is policy
    assert torch.equal(out.sequences, expected) and 0 < out.skipped_share.max() < 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_sliding_windows_slide_over_accepted_tokens_only(
    family: str, attention: str, skipping: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, family, FAMILIES[family] | {"sliding_window": 3})
    model, skipper = skipping(family, layers=7)  # gemma3's sixth has full attention
    model.set_attn_implementation(attention)
    out = speculated(model, policy=RandomSkip(0.15), max_new_tokens=14)
    assert new_tokens(out) == [full_depth_greedy(model, skipper, prompt, steps=14) for prompt in PROMPTS]
    assert (out.accepted > 0).all() and (out.accepted < out.drafted).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_verifier_attends_to_full_depth_keys_only(family: str, skipping: Any) -> None:
    """Before each verification the cache holds, layer by layer, what full depth leaves of the tokens so far."""
    model, skipper = skipping(family)
    seen: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]] = []

    def spy(_: Any, __: Any, kwargs: Any) -> None:
        cache, mask, width = kwargs["past_key_values"], kwargs["attention_mask"], kwargs["input_ids"].shape[1]
        slots = mask.shape[1] - width
        assert all(layer.keys.shape[2] == layer.values.shape[2] == slots for layer in cache.layers)
        if isinstance(skipper.policy, FullDepth) and cache.layers and len(mask) == len(PROMPTS):
            seen.append((mask[:, :slots].bool(), [(layer.keys, layer.values) for layer in cache.layers]))

    handle = find_stack(model).register_forward_pre_hook(spy, with_kwargs=True)
    out = speculated(model, policy=RandomSkip(0.2), max_new_tokens=12)
    handle.remove()
    assert len(seen) >= 3 and len({int(n) for n in out.passes}) > 1
    for row, (prompt, new) in enumerate(zip(PROMPTS, new_tokens(out), strict=True)):
        reference = skipper.new_cache()
        with torch.no_grad(), skipper.full_depth():
            model(input_ids=torch.tensor([prompt + new]), past_key_values=reference)
        for mask, layers in seen:
            count = int(mask[row].sum())
            assert mask[row, -count:].all()
            for (keys, values), expected in zip(layers, reference.layers, strict=True):
                torch.testing.assert_close(keys[row][:, mask[row]], expected.keys[0, :, :count], atol=2e-5, rtol=1e-4)
                torch.testing.assert_close(
                    values[row][:, mask[row]], expected.values[0, :, :count], atol=2e-5, rtol=1e-4
                )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_drafter_of_full_depth_has_every_draft_accepted(family: str, skipping: Any) -> None:
    model, _ = skipping(family)
    sampling = {"do_sample": True, "temperature": 3.0, "top_k": 20, "generator": torch.Generator().manual_seed(0)}
    for options in ({}, sampling):
        out = speculated(model, policy=FullDepth(), max_new_tokens=12, draft_tokens=4, **options)
        # The prompt's token, two rounds of 4 + 1, and a last one that drafts the single token there is room for.
        assert out.accepted.tolist() == out.drafted.tolist() == [8] * 4 and out.passes.tolist() == [4] * 4
        assert out.acceptance_rate.tolist() == [1] * 4 and out.skipped_share.tolist() == [0] * 4


def test_a_row_ends_with_its_eos_wherever_it_is_drafted(skipping: Any) -> None:
    """Every draft is accepted here, those after EOS too if there were any."""
    model, _ = skipping("falcon")
    endless = new_tokens(speculated(model, PROMPTS[:1], FullDepth()), PROMPTS[:1])[0]
    assert len(set(endless)) > 5
    for stop in set(endless):
        out = speculated(model, PROMPTS[:1], FullDepth(), eos_token_id=[stop, 383])
        assert new_tokens(out, PROMPTS[:1])[0] == endless[: endless.index(stop) + 1]
        assert out.accepted.tolist() == out.drafted.tolist()


def test_a_row_speculates_as_if_alone(skipping: Any) -> None:
    """Not only its tokens: its drafts, its acceptances, its passes and what it skipped."""
    model, _ = skipping("opt")
    together = speculated(model, policy=Threshold(0.5), max_new_tokens=14)
    assert len(set(together.passes.tolist())) > 1
    for row, prompt in enumerate(PROMPTS):
        alone = speculated(model, [prompt], Threshold(0.5), max_new_tokens=14)
        for name in ("drafted", "accepted", "passes", "skipped"):
            assert getattr(alone, name)[0] == getattr(together, name)[row]


@pytest.mark.parametrize("policy", ["threshold", "random", "forced"])
def test_the_account_agrees_with_the_layers_counted_at_the_blocks(policy: str, skipping: Any) -> None:
    model, skipper = skipping("opt")
    for prompt in PROMPTS:
        skipper.reset_counter()
        out = speculated(model, [prompt], POLICIES[policy](), max_new_tokens=12)
        drafted, passes = int(out.drafted), int(out.passes)
        verified = len(prompt) + passes - 1 + drafted  # each pass but the first: the pending token and its drafts
        assert sum(skipper.counter.ran) == sum(skipper.counter.decided) == 6 * (verified + drafted) - int(out.skipped)
        assert float(out.skipped_share) == pytest.approx(int(out.skipped) / (6 * drafted))
    assert out.skipped > 0


def test_an_unsure_drafter_stops_after_the_draft_it_was_unsure_of(skipping: Any) -> None:
    model, _ = skipping()
    free = speculated(model, policy=Threshold(0.9))
    for confidence, check in ((0.0, lambda n, rounds: n > rounds), (1.0, lambda n, rounds: n <= rounds)):
        out = speculated(model, policy=Threshold(0.9), draft_confidence=confidence)
        assert new_tokens(out) == new_tokens(free)
        assert all(check(n, p - 1) for n, p in zip(out.drafted.tolist(), out.passes.tolist(), strict=True))


def test_greedy_acceptance_ends_at_the_first_difference() -> None:
    best = torch.tensor([[3, 4, 5, 6]]).expand(5, 4)
    drafts = torch.tensor([[3, 4, 5], [9, 4, 5], [3, 9, 5], [3, 4, 5], [3, 4, 5]])
    accepted, token = accept_greedy(drafts, torch.tensor([3, 3, 3, 1, 0]), best)
    assert accepted.tolist() == [3, 0, 1, 1, 0] and token.tolist() == [[6], [3], [4], [4], [3]]


def histogram(pairs: Tensor, size: int) -> Tensor:
    """Counts rows of ``size``-ary digits (N, n): (size ** n,)."""
    code = (pairs * size ** torch.arange(pairs.shape[1]).flip(0)).sum(dim=1)
    return torch.bincount(code, minlength=size ** pairs.shape[1])


@settings(max_examples=tries(10), deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), drafted=st.integers(0, 2), sharp=st.sampled_from([0.5, 1.0, 3.0]))
def test_the_acceptance_rule_leaves_the_verifiers_distribution(seed: int, drafted: int, sharp: float) -> None:
    """Both tokens of a round of two drafts, completed by the verifier's next token where a round gave but one."""
    generator, n, v = torch.Generator().manual_seed(seed), 60_000, 3
    q1, p1 = (torch.randn(2, v, generator=generator) * sharp).softmax(-1)  # of the first token
    q2, p2, p3 = (torch.randn(3, v, v, generator=generator) * sharp).softmax(-1)  # given the one before
    first = torch.multinomial(q1.expand(n, v), 1, generator=generator)
    second = torch.multinomial(q2[first[:, 0]], 1, generator=generator)
    q = torch.stack([q1.expand(n, v), q2[first[:, 0]]], dim=1)
    p = torch.stack([p1.expand(n, v), p2[first[:, 0]], p3[second[:, 0]]], dim=1)
    drafts = torch.cat([first, second], dim=1)
    accepted, token = accept_sampled(drafts, torch.full((n,), drafted), q, p, generator)
    assert accepted.max() <= drafted
    tokens = torch.cat([torch.where(torch.arange(2) < accepted[:, None], drafts, token), token], dim=1)[:, :2]
    short = accepted == 0  # one token only: the next is anyone's draw from p2
    tokens[short, 1] = torch.multinomial(p2[token[short, 0]], 1, generator=generator)[:, 0]
    counts = histogram(tokens, v).double()
    assert chisquare(counts, (p1[:, None] * p2).flatten().double() * n, sum_check=False).pvalue > 1e-4
    if drafted == 2:  # the token after two accepted drafts is the verifier's too
        both = (accepted == 2).nonzero().squeeze(1)
        counts = histogram(torch.cat([second[both], token[both]], dim=1), v).double()
        expected = counts.view(v, v).sum(dim=1, keepdim=True) * p3.double()
        assert chisquare(counts, expected.flatten(), ddof=v - 1, sum_check=False).pvalue > 1e-4


def test_a_rejection_that_only_rounding_explains_draws_from_the_verifier() -> None:
    p = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]).expand(64, 2, 2)
    drafts, drafted = torch.ones(64, 1, dtype=torch.long), torch.ones(64, dtype=torch.long)
    accepted, token = accept_sampled(drafts, drafted, 4 * p[:, :1], p, torch.Generator().manual_seed(0))
    assert 0 < accepted.sum() < 64 and set(token[accepted == 0].flatten().tolist()) == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("family", FOUR_OR_ALL)
@pytest.mark.parametrize("confidence", [0.0, 0.6])
def test_samples_are_distributed_as_full_depth_says(family: str, confidence: float, skipping: Any) -> None:
    """The first four tokens of thousands of rows, against the distribution enumerated without a cache."""
    model, skipper = skipping(family)
    warp = LogitsProcessorList([TemperatureLogitsWarper(4.0), TopKLogitsWarper(3), TopPLogitsWarper(0.7)])
    prompt, n = [5, 6, 7, 8], 3000
    expected: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(4):
        before, expected = expected, {}
        for tokens, weight in before.items():
            p = warp(None, full_depth_logits(model, skipper, [*prompt, *tokens])[-1:]).softmax(-1)[0]
            expected |= {(*tokens, i): weight * float(p[i]) for i in p.nonzero().flatten().tolist()}
    out = speculated(
        model, [prompt] * n, RandomSkip(0.2, seed=1), max_new_tokens=4, draft_tokens=2, do_sample=True, temperature=4.0,
        top_k=3, top_p=0.7, generator=torch.Generator().manual_seed(0), draft_confidence=confidence,
    )  # fmt: skip
    found = Counter(tuple(line) for line in new_tokens(out, [prompt]))
    assert found.keys() <= expected.keys() and len(expected) >= 8
    weights = torch.tensor(list(expected.values())).double()
    assert chisquare([found[tokens] for tokens in expected], weights / weights.sum() * n).pvalue > 1e-4
    assert 0.05 < float(out.accepted.sum() / out.drafted.sum()) < 0.95


def test_a_generator_makes_samples_repeatable(skipping: Any) -> None:
    model, _ = skipping()
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    draws = [speculated(model, policy=Threshold(0.9), do_sample=True, generator=g).sequences for g in generators]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_what_cannot_be_speculated_is_said(skipping: Any) -> None:
    model, skipper = skipping()
    for mask in ([1, 1, 0], [1, 0, 1]):
        with pytest.raises(DlskipError, match="left-padded"):
            speculate(model, torch.tensor([[5, 6, 7]]), torch.tensor([mask]), max_new_tokens=3)
    wrong = [{"max_new_tokens": 0}, {"draft_tokens": 0}, {"draft_confidence": 1.5}]
    for options in [*wrong, {"do_sample": True, "temperature": 0.0}, {"do_sample": True, "top_p": 2.0}]:
        with pytest.raises(DlskipError, match=r"out of range|temperature|top_p"):
            speculated(model, **options)
    with pytest.raises(DlskipError, match="disabled"), skipper.disabled():
        speculated(model)
    with pytest.raises(DlskipError, match="no layer skipping"):
        speculated(tiny("llama"))
