"""Decoding through recorded work against the eager path; without a GPU, through the same work done anew each time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dlskip.data.batches import left_pad
from dlskip.fast import use_fast_path
from dlskip.fast.recorded import Steps
from dlskip.inference.speculative import speculate
from dlskip.skip import FullDepth, Sampled, Threshold, skipper_of
from dlskip.skip.stack import find_layers
from tests.fast.test_fast import KNOWN, decoded, pair, policy_of
from tests.helpers.effort import tries

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
POLICIES = ["full", "forced", "alike", "random", "threshold", "majority", "any", "exit"]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serves this machine's device; with little room, so that it has to grow."""
    monkeypatch.setattr("dlskip.fast.stack.DEVICES", (DEVICE,))
    monkeypatch.setattr("dlskip.fast.recorded.LEAST", 8)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each recorded step had."""
    seen: list[int] = []
    call = Steps.__call__

    def counting(self: Steps, h: Tensor, *rest: Any) -> Tensor:
        seen.append(len(h))
        return call(self, h, *rest)

    monkeypatch.setattr(Steps, "__call__", counting)
    return seen


def both(skipping: Any, family: str = "llama", **options: Any) -> tuple[Any, Any]:
    """The same model twice, the second recorded."""
    eager, fast = pair(skipping, family, **options)
    assert use_fast_path(fast.to(DEVICE), compile=True)
    return eager.to(DEVICE), fast


def prompts_of(lengths: list[int]) -> list[list[int]]:
    return [[(7 * i + 3 * j) % 300 + 5 for j in range(n)] for i, n in enumerate(lengths)]


@pytest.mark.slow
@settings(max_examples=tries(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    family=st.sampled_from(KNOWN),
    policy=st.sampled_from(POLICIES),
    priced=st.booleans(),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
)
def test_recorded_and_eager_agree(
    skipping: Any, steps: list[int], family: str, policy: str, priced: bool, lengths: list[int]
) -> None:  # fmt: skip
    steps.clear()
    eager, fast = both(skipping, family, prices=(0.5, 2.0) if priced else None)
    logits, tokens, runs = decoded(eager, policy_of(policy, len(lengths)), prompts_of(lengths))
    got, got_tokens, got_runs = decoded(fast, policy_of(policy, len(lengths)), prompts_of(lengths))
    assert steps == [len(lengths)] * 4
    assert torch.equal(torch.stack(runs), torch.stack(got_runs))
    assert torch.equal(tokens, got_tokens)
    torch.testing.assert_close(got, logits, rtol=2e-4, atol=2e-4)
    assert skipper_of(fast).counter.ran == skipper_of(eager).counter.ran
    assert skipper_of(fast).counter.decided == skipper_of(eager).counter.decided


@pytest.mark.parametrize("rows", [1, 3])
def test_a_price_for_every_row(skipping: Any, rows: int) -> None:
    eager, fast = both(skipping, prices=(0.5, 2.0))
    prices = torch.tensor([0.5, 1.0, 2.0])[-rows:].to(DEVICE)
    prompts = prompts_of([3, 5, 4][:rows])
    logits, tokens, runs = decoded(eager, Threshold(0.5, price=prices), prompts)
    got, got_tokens, got_runs = decoded(fast, Threshold(0.5, price=prices), prompts)
    assert torch.equal(tokens, got_tokens)
    assert torch.equal(torch.stack(runs), torch.stack(got_runs))
    torch.testing.assert_close(got, logits, rtol=2e-4, atol=2e-4)


def test_two_outputs_keep_their_caches_apart(skipping: Any) -> None:
    """A cache that has to leave takes its keys along, and can go on where it was."""
    eager, fast = both(skipping)
    results = []
    for model in (eager, fast):
        first, second = (torch.tensor([ids], device=DEVICE) for ids in ([5, 6, 7], [9, 8, 11]))
        with skipper_of(model).using(Threshold(0.5)), torch.no_grad():
            caches = [model(ids).past_key_values for ids in (first, second)]
            logits = []
            for token in (12, 13, 14):
                for cache in caches:
                    logits.append(model(torch.tensor([[token]], device=DEVICE), past_key_values=cache).logits)
            kept = copy.deepcopy(caches[0])
            logits.append(model(torch.tensor([[15]], device=DEVICE), past_key_values=caches[0]).logits)
            logits.append(model(torch.tensor([[15]], device=DEVICE), past_key_values=kept).logits)
        results.append(torch.cat(logits))
        assert torch.equal(results[-1][-1], results[-1][-2])
        assert [cache.get_seq_length() for cache in caches] == [7, 6]
    torch.testing.assert_close(results[1], results[0], rtol=2e-4, atol=2e-4)


def test_beams_reorder_what_is_recorded(skipping: Any, steps: list[int]) -> None:
    eager, fast = both(skipping)
    inputs = {k: v.to(DEVICE) for k, v in left_pad(prompts_of([4, 7]), 2).items()}
    out = []
    for model in (eager, fast):
        with skipper_of(model).using(Threshold(0.5)):
            out.append(
                model.generate(
                    **inputs, max_new_tokens=6, num_beams=3, do_sample=False, eos_token_id=None, pad_token_id=2
                )
            )
    assert set(steps) == {6}
    assert torch.equal(*out)


def test_lossless_through_recorded_drafts(skipping: Any, steps: list[int]) -> None:
    """Drafts take recorded steps, passes that verify do not, and both share a cache that shrinks in between."""
    _, fast = both(skipping)
    inputs = {k: v.to(DEVICE) for k, v in left_pad(prompts_of([4, 7]), 2).items()}
    with skipper_of(fast).using(Threshold(0.5)):
        done = speculate(fast, **inputs, max_new_tokens=12, draft_tokens=3, eos_token_id=[], pad_token_id=2)
    drafted = len(steps)
    assert drafted
    with skipper_of(fast).full_depth():
        plain = fast.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=2)
    assert torch.equal(done.sequences, plain)


def test_what_is_written_to_a_module_is_what_runs(skipping: Any) -> None:
    eager, fast = both(skipping)
    prompts = prompts_of([3, 6])
    decoded(fast, Threshold(0.5), prompts)
    for model in (eager, fast):
        with torch.no_grad():
            find_layers(model)[2][2].self_attn.k_proj.weight.mul_(2)
            skipper_of(model).layers[1].adapter.up.weight.mul_(1.5)  # type: ignore[union-attr]
    torch.testing.assert_close(
        decoded(fast, Threshold(0.5), prompts)[0], decoded(eager, Threshold(0.5), prompts)[0], rtol=2e-4, atol=2e-4
    )
    halved = {name: x * 0.5 for name, x in eager.state_dict().items()}
    for model in (eager, fast):  # and what replaces it
        model.load_state_dict(halved)
        model.to(torch.float64).to(torch.float32)
    torch.testing.assert_close(
        decoded(fast, Threshold(0.5), prompts)[0], decoded(eager, Threshold(0.5), prompts)[0], rtol=2e-4, atol=2e-4
    )


def test_a_copy_records_its_own(skipping: Any) -> None:
    _, fast = both(skipping)
    prompts = prompts_of([3, 6])
    before = decoded(fast, Threshold(0.5), prompts)[0]
    other = copy.deepcopy(fast)
    with torch.no_grad():
        for block in find_layers(fast)[2]:
            block.mlp.down_proj.weight.zero_()
    assert torch.equal(decoded(other, Threshold(0.5), prompts)[0], before)
    assert not torch.equal(decoded(fast, Threshold(0.5), prompts)[0], before)


def test_states_are_for_the_loop_alone(skipping: Any, steps: list[int]) -> None:
    """A policy that collects states would find them overwritten."""
    _, fast = both(skipping)
    decoded(fast, Sampled(torch.Generator().manual_seed(1)), prompts_of([3]))
    assert not steps
    decoded(fast, FullDepth(), prompts_of([3]))
    assert steps


def test_too_many_rows_take_the_loop(skipping: Any, steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = both(skipping)
    monkeypatch.setattr("dlskip.fast.recorded.MOST", 2)
    decoded(fast, Threshold(0.5), prompts_of([3, 4, 5]))
    assert not steps


def test_switched_off_again(skipping: Any, steps: list[int]) -> None:
    _, fast = both(skipping)
    use_fast_path(fast)
    decoded(fast, FullDepth(), prompts_of([3]))
    assert not steps
    use_fast_path(fast, compile=True)
    decoded(fast, FullDepth(), prompts_of([3]))
    assert steps
