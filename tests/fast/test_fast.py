"""The fast path against the eager one: the same logits, decisions and cache, whatever is skipped."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from dlskip.data.batches import left_pad
from dlskip.errors import DlskipError
from dlskip.fast import use_fast_path
from dlskip.fast.compiled import compiled
from dlskip.fast.stack import FastStack
from dlskip.models.tiny import FAMILIES
from dlskip.skip import Forced, FullDepth, Policy, RandomSkip, Sampled, Strategy, Threshold, skipper_of
from dlskip.skip.cache import GrowingLayer
from dlskip.skip.stack import find_layers, find_stack
from tests.helpers.effort import tries

KNOWN = ["llama", "mistral", "qwen2"]


def pair(skipping: Any, family: str, **options: Any) -> tuple[Any, Any]:
    """The same model twice, the second with the fast path."""
    eager, fast = skipping(family, **options)[0], skipping(family, **options)[0]
    if family == "qwen2":  # fresh biases are zero
        for model in (eager, fast):
            generator = torch.Generator().manual_seed(5)
            for block in find_layers(model)[2]:
                for name in ("q_proj", "k_proj", "v_proj"):
                    bias = getattr(block.self_attn, name).bias
                    bias.data = torch.randn(bias.shape, generator=generator)
    assert use_fast_path(fast)
    return eager, fast


def ran_fast(model: Any) -> bool:
    """Whether the last pass took the fast path."""
    return bool(find_stack(model).forward.__self__._made.blocks)


def decoded(model: Any, policy: Policy, prompts: list[list[int]], new: int = 5) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Logits (B, new, V) of greedy decoding, the tokens, and what ran at each pass."""
    skipper, runs = skipper_of(model), []
    hook = find_stack(model).register_forward_hook(lambda *_: runs.append(skipper.last.run_matrix()))
    with skipper.using(policy):
        out = model.generate(
            **left_pad(prompts, 2), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=2,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    hook.remove()
    return torch.stack(out.logits, dim=1), out.sequences, runs


def policy_of(name: str, rows: int) -> Policy:
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(rows, 6, generator=generator) > 0.5
    masks[:, 0] = masks[:, -1] = True
    made: dict[str, Policy] = {
        "full": FullDepth(), "forced": Forced(masks), "alike": Forced(masks[0]), "random": RandomSkip(0.4, seed=2),
        "threshold": Threshold(0.5), "majority": Threshold(0.5, "majority"), "any": Threshold(0.4, "any"),
        "exit": Forced(torch.tensor([True, True, True, False, False, False]), frees_last=True),
    }  # fmt: skip
    return made[name]


@pytest.mark.slow
@settings(max_examples=tries(60), deadline=None)
@given(
    family=st.sampled_from(KNOWN),
    policy=st.sampled_from(["full", "forced", "alike", "random", "threshold", "majority", "any", "exit"]),
    fill=st.sampled_from(["copy", "project"]),
    reads=st.sampled_from(["input", "output"]),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_lean_and_eager_agree(
    skipping: Any, family: str, policy: str, fill: str, reads: str, lengths: list[int]
) -> None:  # fmt: skip
    eager, fast = pair(skipping, family, kv_fill=fill, reads=reads)
    prompts = [[(7 * i + 3 * j) % 300 + 5 for j in range(n)] for i, n in enumerate(lengths)]
    logits, tokens, runs = decoded(eager, policy_of(policy, len(lengths)), prompts)
    got, got_tokens, got_runs = decoded(fast, policy_of(policy, len(lengths)), prompts)
    assert ran_fast(fast)
    assert torch.equal(torch.stack(runs), torch.stack(got_runs))
    assert torch.equal(tokens, got_tokens)
    torch.testing.assert_close(got, logits, rtol=2e-4, atol=2e-4)
    assert skipper_of(fast).counter.ran == skipper_of(eager).counter.ran
    assert skipper_of(fast).counter.decided == skipper_of(eager).counter.decided


@pytest.mark.parametrize("family", KNOWN)
def test_weights_stay_the_modules_own(skipping: Any, family: str) -> None:
    eager, fast = pair(skipping, family)
    decoded(fast, FullDepth(), [[5, 6, 7]])
    before, after = eager.state_dict(), fast.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():  # what is written to a module is what runs
        find_layers(fast)[2][2].self_attn.k_proj.weight.mul_(2)
        find_layers(eager)[2][2].self_attn.k_proj.weight.mul_(2)
    torch.testing.assert_close(decoded(fast, FullDepth(), [[5, 6]])[0], decoded(eager, FullDepth(), [[5, 6]])[0])
    halved = {name: x * 0.5 for name, x in before.items()}
    for model in (eager, fast):  # and what replaces it
        model.load_state_dict(halved)
        model.to(torch.float64).to(torch.float32)
    torch.testing.assert_close(decoded(fast, FullDepth(), [[5, 6]])[0], decoded(eager, FullDepth(), [[5, 6]])[0])


def test_a_copy_runs_its_own_weights(skipping: Any) -> None:
    _, fast = pair(skipping, "llama")
    before = decoded(fast, Threshold(0.5), [[5, 6, 7]])[0]
    other = copy.deepcopy(fast)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert not torch.allclose(decoded(other, Threshold(0.5), [[5, 6, 7]])[0], before)
    assert torch.equal(decoded(fast, Threshold(0.5), [[5, 6, 7]])[0], before)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in KNOWN])
def test_other_families_stay_as_they_are(skipping: Any, family: str) -> None:
    model = skipping(family)[0]
    assert not use_fast_path(model)
    assert not isinstance(getattr(find_stack(model).forward, "__self__", None), FastStack)


def test_what_it_does_not_know_takes_the_eager_path(skipping: Any) -> None:
    eager, fast = pair(skipping, "llama")
    ids = torch.tensor([[5, 6, 7, 8]])
    heard: list[int] = []
    with torch.no_grad():
        states = [m(input_ids=ids, output_hidden_states=True).hidden_states for m in (eager, fast)]
    torch.testing.assert_close(states[0], states[1])
    hook = find_layers(fast)[2][3].mlp.register_forward_hook(lambda *_: heard.append(1))
    decoded(fast, FullDepth(), [[5, 6, 7]], new=2)
    assert len(heard) == 2
    hook.remove()
    policies = (Sampled(torch.Generator().manual_seed(1), Strategy(0.9, 0.2, 2)) for _ in range(2))
    a, b = (decoded(m, p, [[5, 6, 7]])[0] for m, p in zip((eager, fast), policies, strict=True))
    assert torch.equal(a, b)
    fast.requires_grad_(True)
    fast(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in find_layers(fast)[2].parameters())


def test_attention_within_a_window_takes_the_eager_path(skipping: Any) -> None:
    eager, fast = pair(skipping, "mistral")
    for model in (eager, fast):
        skipper_of(model).config.sliding_window = 3
    prompts = [[5, 6, 7, 8, 9, 10, 11]]
    assert torch.equal(decoded(fast, Threshold(0.5), prompts)[0], decoded(eager, Threshold(0.5), prompts)[0])
    assert not ran_fast(fast)


def test_taking_it_off_gives_the_backbone_back(skipping: Any) -> None:
    _, fast = pair(skipping, "llama")
    decoded(fast, FullDepth(), [[5, 6, 7]])
    skipper_of(fast).detach_from(fast)
    assert "forward" not in vars(find_stack(fast))
    assert "forward" not in vars(fast.lm_head)


@settings(max_examples=tries(40), deadline=None)
@given(
    st.lists(st.sampled_from(["one", "many", "crop", "reorder", "select", "repeat", "copy"]), max_size=12), st.data()
)
def test_a_growing_layer_is_a_dynamic_layer(actions: list[str], data: Any) -> None:
    pairs: tuple[Any, Any] = (DynamicLayer(), GrowingLayer())
    generator = torch.Generator().manual_seed(0)
    rows, held = 3, []
    for action in ["many", *actions]:
        if action in ("one", "many"):
            new = torch.randn(2, rows, 2, 1 if action == "one" else 70, 4, generator=generator)
            got = [layer.update(new[0].clone(), new[1].clone()) for layer in pairs]
            for x, y in zip(*got, strict=True):
                assert torch.equal(x, y)
        elif action == "crop":
            for layer in pairs:
                layer.crop(-1)
        elif action == "copy":  # one that is left behind keeps what it has
            held.append((copy.deepcopy(pairs[1]), pairs[1].keys.clone()))
        else:
            index = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=4)))
            for layer in pairs:
                if action == "repeat":
                    layer.batch_repeat_interleave(2)
                elif action == "select":
                    layer.batch_select_indices(index)
                else:
                    layer.reorder_cache(torch.arange(rows).flip(0))
            rows = len(pairs[0].keys)
        assert pairs[0].get_seq_length() == pairs[1].get_seq_length()
        assert torch.equal(pairs[0].keys, pairs[1].keys)
        assert torch.equal(pairs[0].values, pairs[1].values)
    assert all(torch.equal(layer.keys, keys) for layer, keys in held)


def test_decoding_writes_into_place(skipping: Any) -> None:
    """A step leaves the keys where they are until the buffer is full."""
    _, fast = pair(skipping, "llama")
    skipper = skipper_of(fast)
    cache, places = skipper.new_cache(), []
    assert isinstance(cache, DynamicCache)
    with torch.no_grad():
        for ids in ([[5, 6, 7]], *([[8]] for _ in range(20))):
            fast(input_ids=torch.tensor(ids), past_key_values=cache)
            places.append(cache.layers[3].keys.data_ptr())
    assert len(set(places[1:])) == 1


@pytest.mark.parametrize("shape", [(32,), (1, 32), (3, 32), (1, 1, 32), (3, 1, 32), (3, 4, 32)])
def test_the_output_layer_is_the_same_product(skipping: Any, shape: tuple[int, ...]) -> None:
    eager, fast = pair(skipping, "llama")
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    apart = torch.stack([x, x], dim=-2)[..., 1, :]  # rows that lie apart, as the last tokens of a batch do
    with torch.no_grad():
        torch.testing.assert_close(fast.lm_head(apart), eager.lm_head(x))


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("prices", "kept"), [(None, torch.float32), ((0.3, 2.0), torch.bfloat16)])
@pytest.mark.parametrize("family", KNOWN)
def test_compiled_and_lean_agree(
    skipping: Any, family: str, prices: tuple[float, float] | None, kept: torch.dtype
) -> None:  # fmt: skip
    eager, fast = pair(skipping, family, prices=prices)
    for model in (eager, fast):
        skipper_of(model).cast_adapters(kept)
    use_fast_path(fast, compile=True)
    for name in ("full", "alike", "random", "threshold", "exit"):
        policy = [policy_of(name, 1), policy_of(name, 1)]
        if prices is not None and isinstance(policy[0], Threshold):
            policy = [Threshold(0.5, price=0.5), Threshold(0.5, price=0.5)]
        for model in (eager, fast):
            skipper_of(model).reset_counter()
        logits, tokens, runs = decoded(eager, policy[0], [[5, 6, 7, 8]], new=8)
        found, found_tokens, found_runs = decoded(fast, policy[1], [[5, 6, 7, 8]], new=8)
        assert torch.equal(torch.stack(runs), torch.stack(found_runs))
        assert torch.equal(tokens, found_tokens)
        torch.testing.assert_close(found, logits, rtol=2e-4, atol=2e-4)
        assert skipper_of(fast).counter == skipper_of(eager).counter
    assert find_stack(fast).forward.__self__.single is not None


@pytest.mark.slow
@needs_compiler
def test_compiled_code_follows_the_weights(skipping: Any) -> None:
    eager, fast = pair(skipping, "llama")
    use_fast_path(fast, compile=True)
    decoded(fast, FullDepth(), [[5, 6, 7]])
    other = copy.deepcopy(fast)
    with torch.no_grad():
        for model in (eager, other):
            for parameter in model.parameters():
                parameter.mul_(0.5)
    torch.testing.assert_close(decoded(other, Threshold(0.5), [[5, 6]])[0], decoded(eager, Threshold(0.5), [[5, 6]])[0])


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("options", "batch"), [({"reads": "output"}, 1), ({"kv_fill": "project"}, 1), ({}, 2)])
def test_what_is_not_compiled_takes_the_lean_forward(skipping: Any, options: dict[str, str], batch: int) -> None:
    eager, fast = pair(skipping, "llama", **options)
    if options:
        with pytest.warns(UserWarning, match="nothing to compile"):
            use_fast_path(fast, compile=True)
    else:
        use_fast_path(fast, compile=True)
    prompts = [[5, 6, 7], [8, 9, 10]][:batch]
    torch.testing.assert_close(
        decoded(fast, Threshold(0.5), prompts)[0], decoded(eager, Threshold(0.5), prompts)[0], rtol=2e-4, atol=2e-4
    )


@pytest.mark.slow
@needs_compiler
def test_compiled_code_can_be_switched_off_again(skipping: Any) -> None:
    _, fast = pair(skipping, "llama")
    stack = find_stack(fast).forward.__self__
    assert use_fast_path(fast, compile=True) and stack.compile
    assert use_fast_path(fast) and not stack.compile
    assert find_stack(fast).forward.__self__ is stack
    skipper_of(fast).detach_from(fast)
    assert "forward" not in vars(find_stack(fast))


@pytest.mark.slow
@needs_compiler
def test_a_failing_compiler_is_named(
    skipping: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    _, fast = pair(skipping, "llama")
    monkeypatch.setenv("DLSKIP_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.export, "export", lambda *_: (_ for _ in ()).throw(RuntimeError("no compiler here")))
    compiled.cache_clear()
    with pytest.raises(DlskipError, match=r"no compiler here[\s\S]*install a C\+\+ compiler"):
        use_fast_path(fast, compile=True)
    assert not list(tmp_path.rglob("*.pt2"))
