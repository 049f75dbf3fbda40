"""A skipped layer is left out, and nothing else changes: equivalences on tiny models of every family."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dlskip.data.batches import Batch, Encoded, left_pad
from dlskip.errors import DlskipError
from dlskip.inference.scoring import target_logits
from dlskip.models import tuning
from dlskip.models.tiny import FAMILIES, tiny
from dlskip.skip import Forced, Sampled, Skipper, Strategy, Threshold, attach, skipper_of
from dlskip.skip.stack import find_layers, find_stack, output_logits
from tests.helpers.effort import FOUR_OR_ALL, tries
from tests.helpers.sections import tune

PROMPTS = left_pad([[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]], pad=2)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
Ragged = Callable[..., Batch]
Masks = Callable[..., Tensor]


def logits(model: nn.Module, **options: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(**PROMPTS, **options).logits
    return out


def per_token(batch: Batch, runs: Tensor) -> Tensor:
    """Spreads the masks of the deciding tokens (N, L) over all tokens: (B, T, L)."""
    return runs[batch.owner]


def cached_logits(
    model: nn.Module, skipper: Skipper, example: Encoded, masks: Tensor, pads: int = 0
) -> tuple[Tensor, list[int]]:
    """Step-by-step decoding of one row's given target: logits (n, V), and tokens that each layer ran."""
    cache, ids, rows = skipper.new_cache(), [2] * pads + example.prompt, []
    mask = torch.tensor([[0] * pads + [1] * len(example.prompt)])
    position = (mask.cumsum(1) - 1).clamp(min=0)
    skipper.reset_counter()
    for i, token in enumerate(example.target):
        with torch.no_grad(), skipper.using(Forced(masks[i])):
            out = find_stack(model)(
                input_ids=torch.tensor([ids]), attention_mask=mask, position_ids=position, past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
        rows.append(output_logits(model, out.last_hidden_state[:, -1])[0])
        ids, mask, position = [token], torch.cat([mask, mask.new_ones(1, 1)], 1), position[:, -1:] + 1
    return torch.stack(rows), skipper.counter.ran


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_fill", ["copy", "project"])
def test_a_fresh_attachment_is_the_base_bit_for_bit(family: str, kv_fill: str) -> None:
    base, model = tiny(family), tiny(family)
    attach(model, bottleneck=4, kv_fill=kv_fill)
    for options in ({"use_cache": False}, {"use_cache": True}):
        assert torch.equal(logits(model, **options), logits(base, **options))
    for options in ({"do_sample": False}, {"num_beams": 3}):
        expected = base.generate(**PROMPTS, max_new_tokens=6, **options)
        assert torch.equal(model.generate(**PROMPTS, max_new_tokens=6, **options), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_detaching_restores_the_base_bit_for_bit(family: str, skipping: Any) -> None:
    base = tiny(family)
    model, skipper = skipping(family)
    with_skips = logits(model)
    with skipper.disabled():
        assert torch.equal(logits(model), logits(base))
    assert torch.equal(logits(model), with_skips) and not torch.equal(with_skips, logits(base))
    skipper.detach_from(model)
    assert torch.equal(logits(model), logits(base))
    assert model.state_dict().keys() == base.state_dict().keys()
    with pytest.raises(DlskipError, match="no layer skipping"):
        skipper_of(model)
    attach(model, bottleneck=4)
    assert torch.equal(logits(model), logits(base))


@pytest.mark.parametrize("family", FAMILIES)
def test_skipping_all_free_layers_leaves_residual_and_adapters(family: str, skipping: Any) -> None:
    """Against a base model whose free layers are physically gone."""
    model, skipper = skipping(family)
    base = tiny(family)
    owner, name, blocks = find_layers(base)
    config: Any = owner.config
    setattr(owner, name, nn.ModuleList([blocks[0], blocks[-1]]))
    config.num_hidden_layers = 2
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0], config.layer_types[-1]]
    adapters = [layer.adapter for layer in skipper.layers]

    def after(chosen: list[nn.Module]) -> Callable[..., Any]:
        def hook(_: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
            h = args[0] if args else kwargs["hidden_states"]
            new = (out[0] if isinstance(out, tuple) else out) + chosen[0](h)
            for adapter in chosen[1:]:
                new = new + adapter(new)
            return (new, *out[1:]) if isinstance(out, tuple) else new

        return hook

    blocks[0].register_forward_hook(after(adapters[:-1]), with_kwargs=True)
    blocks[-1].register_forward_hook(after(adapters[-1:]), with_kwargs=True)
    none_free = torch.tensor([True] + [False] * 4 + [True])
    with skipper.using(Forced(none_free)):
        got = logits(model, use_cache=False)
        torch.testing.assert_close(logits(model, use_cache=True), got, **CLOSE)
    valid = PROMPTS["attention_mask"].bool()
    torch.testing.assert_close(got[valid], logits(base, use_cache=False)[valid], **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_fill", ["copy", "project"])
@settings(max_examples=tries(6), deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=3),
    p=st.sampled_from([0.3, 0.7]),
    pads=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_teacher_forcing_equals_cached_decoding_and_masking(
    family: str, kv_fill: str, skipping: Any, examples: Any, ragged: Ragged, random_masks: Masks, masked_logits: Any,
    lengths: list[tuple[int, int]], p: float, pads: int, seed: int,
) -> None:  # fmt: skip
    """One ragged pass = row by row, token by token with a cache = all blocks computed and multiplied by the mask."""
    model, skipper = skipping(family, kv_fill=kv_fill)
    batch, rows = ragged(*lengths, seed=seed), examples(*lengths, seed=seed)
    runs = random_masks(len(batch.rows), p=p, seed=seed)
    with torch.no_grad(), skipper.using(Forced(runs), batch.deciders):
        forced = target_logits(model, batch)
    with torch.no_grad():
        torch.testing.assert_close(forced, masked_logits(model, skipper, batch, per_token(batch, runs)), **CLOSE)
    for i, example in enumerate(rows):
        mine = batch.rows == i
        cached, ran = cached_logits(model, skipper, example, runs[mine], pads)
        torch.testing.assert_close(cached, forced[mine], **CLOSE)
        tokens = torch.ones(len(example.target), dtype=torch.long)
        tokens[0] = len(example.prompt) + pads
        assert ran == (runs[mine] * tokens[:, None]).sum(dim=0).tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kv_fill", ["copy", "project"])
def test_a_padded_batch_decodes_as_its_rows_do(
    family: str, kv_fill: str, skipping: Any, examples: Any, random_masks: Masks
) -> None:
    model, skipper = skipping(family, kv_fill=kv_fill)
    rows = examples((5, 4), (2, 4), (3, 4))
    runs = random_masks(12).view(3, 4, 6)
    inputs, cache = left_pad([r.prompt for r in rows], pad=2), skipper.new_cache()
    mask, ids = inputs["attention_mask"], inputs["input_ids"]
    got = []
    for step in range(4):
        with torch.no_grad(), skipper.using(Forced(runs[:, step])):
            position = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            out = model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache)
        got.append(out.logits[:, -1])
        ids, mask = torch.tensor([[r.target[step]] for r in rows]), torch.cat([mask, mask.new_ones(3, 1)], 1)
    for i, row in enumerate(rows):
        torch.testing.assert_close(torch.stack(got, 1)[i], cached_logits(model, skipper, row, runs[i])[0], **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_whole_samples_need_no_cache(
    family: str, skipping: Any, ragged: Ragged, random_masks: Masks, masked_logits: Any
) -> None:
    """Row-wise masks without a cache = the same per token = computed and masked."""
    model, skipper = skipping(family)
    batch = ragged((4, 3), (1, 1), (6, 2), (2, 5))
    runs = random_masks(4)
    with torch.no_grad():
        with skipper.using(Forced(runs)):
            whole = target_logits(model, batch)
        with skipper.using(Forced(runs[batch.rows]), batch.deciders):
            torch.testing.assert_close(target_logits(model, batch), whole, **CLOSE)
        torch.testing.assert_close(whole, masked_logits(model, skipper, batch, runs), **CLOSE)


def test_fill_rules_differ_so_the_comparisons_can_tell(skipping: Any, ragged: Ragged, random_masks: Masks) -> None:
    batch = ragged((4, 4))
    outputs = []
    for kv_fill in ("copy", "project"):
        model, skipper = skipping(kv_fill=kv_fill)
        with torch.no_grad(), skipper.using(Forced(random_masks(4)), batch.deciders):
            outputs.append(target_logits(model, batch))
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


@pytest.mark.parametrize("policy", ["threshold", "sample", "strategy"])
@pytest.mark.parametrize("reads", ["input", "output"])
@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_decisions_of_teacher_forcing_are_those_of_decoding(
    family: str, reads: str, policy: str, skipping: Any, examples: Any, ragged: Ragged
) -> None:
    """The controllers see the same states either way; with Forced replaying what they decided."""
    model, skipper = skipping(family, reads=reads)
    batch, rows = ragged((5, 4), (2, 3)), examples((5, 4), (2, 3))
    strategy = Strategy(tau=0.8, t=0.4, m=1) if policy == "strategy" else None
    chosen = Threshold(0.5) if policy == "threshold" else Sampled(torch.Generator().manual_seed(0), strategy)
    with torch.no_grad(), skipper.using(chosen, batch.deciders):
        forced = target_logits(model, batch)
    runs = skipper.last.run_matrix()
    assert runs[:, 1:-1].any() and not runs.all()
    for i, row in enumerate(rows):
        mine = batch.rows == i
        torch.testing.assert_close(cached_logits(model, skipper, row, runs[mine])[0], forced[mine], **CLOSE)
    if policy == "threshold":
        prompt = left_pad([row.prompt for row in rows], pad=2)
        position = (prompt["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with torch.no_grad(), skipper.using(Threshold(0.5)):
            model(**prompt, position_ids=position)
        assert torch.equal(skipper.last.run_matrix(), runs[batch.place == 0])


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_a_skipped_block_is_not_called(family: str, skipping: Any, ragged: Ragged, random_masks: Masks) -> None:
    """Counted at the original forward itself, in tokens."""
    model, skipper = skipping(family)
    seen = [0] * 6
    for i, layer in enumerate(skipper.layers):

        def spy(*args: Any, original: Any = layer.original, i: int = i, **kwargs: Any) -> Any:
            h = args[0] if args else kwargs["hidden_states"]
            seen[i] += h.shape[0] * h.shape[1]
            return original(*args, **kwargs)

        layer.original = spy
    batch, runs = ragged((4, 3), (2, 1), (3, 3)), random_masks(3)
    with torch.no_grad(), skipper.using(Forced(runs)):
        target_logits(model, batch)
    width = batch.input_ids.shape[1]
    assert seen == (runs.sum(dim=0) * width).tolist() == skipper.counter.ran == skipper.counter.decided
    with torch.no_grad(), skipper.using(Forced(torch.tensor([True, False, False, False, False, True]))):
        model(**PROMPTS)
    assert [s - int(r) for s, r in zip(seen, runs.sum(dim=0) * width, strict=True)] == [15, 0, 0, 0, 0, 15]
    # Ragged: rows are padded to the widest, so at least the deciding tokens' and at most all tokens.
    seen[:] = [0] * 6
    skipper.reset_counter()
    ragged_runs = random_masks(len(batch.rows), seed=3)
    ragged_runs[:, 2] = False
    with torch.no_grad(), skipper.using(Forced(ragged_runs), batch.deciders):
        target_logits(model, batch)
    expected = (per_token(batch, ragged_runs) & batch.attention_mask.bool()[:, :, None]).sum(dim=(0, 1)).tolist()
    assert seen == skipper.counter.ran and skipper.counter.decided[1:-1] == expected[1:-1]
    assert seen[2] == 0 and all(e <= s <= 3 * width for e, s in zip(expected, seen, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_include_bypassed_layers(family: str, skipping: Any) -> None:
    model, skipper = skipping(family)
    with torch.no_grad(), skipper.using(Forced(torch.tensor([True, True, False, False, True, True]))):
        states = model(**PROMPTS, output_hidden_states=True).hidden_states
    assert len(states) == 7
    for layer in (2, 3):
        with torch.no_grad():
            bypassed = states[layer] + skipper.layers[layer].adapter(states[layer])
        torch.testing.assert_close(states[layer + 1], bypassed)


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_lora_with_skipping_is_merged_and_its_keys_are_its_own(family: str, random_masks: Masks) -> None:
    plain = tuning.make_trainable(tiny(family), tune(r=4))
    model = tuning.make_trainable(tiny(family), tune(r=4))
    skipper = attach(model, bottleneck=4)
    own = {n for n, _ in model.named_parameters() if "dlskip" not in n}
    assert own == {n for n, _ in plain.named_parameters()}
    with torch.no_grad():
        for p in [*tuning.backbone_parameters(model), *skipper.parameters()]:
            p.normal_(0, 0.1, generator=torch.Generator().manual_seed(p.numel()))
    with skipper.using(Forced(random_masks(3))):
        expected = logits(model)
        merged = tuning.merged(model)
        assert skipper_of(merged) is skipper
        torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)


def test_a_copied_model_skips_on_its_own(skipping: Any) -> None:
    model, skipper = skipping()
    twin = copy.deepcopy(model)
    with skipper.using(Forced(torch.tensor([True, False, False, False, False, True]))):
        assert not torch.equal(logits(model), logits(twin))
    assert torch.equal(logits(model), logits(twin))


def test_a_failed_pass_leaves_nothing_behind(skipping: Any) -> None:
    model, skipper = skipping()
    expected = logits(model)
    with pytest.raises(DlskipError, match="shape"), skipper.using(Forced(torch.ones(2, 6, dtype=torch.bool))):
        logits(model)
    assert skipper.state.current is None and torch.equal(logits(model), expected)
