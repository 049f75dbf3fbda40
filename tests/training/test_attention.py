"""Padding never gives a NaN: no row of an attention mask allows nothing, and no kernel minds if one does on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface, sdpa_mask

from dlskip.data.batches import Batch
from dlskip.fast import use_fast_path
from dlskip.inference.decode import decode
from dlskip.inference.scoring import target_logits
from dlskip.skip import Forced, FullDepth, Policy, Skipper, Threshold, attention
from dlskip.skip.attention import MASKED, SAFE, mended, mended_masks, safe_attention
from dlskip.skip.passes import Deciders
from tests.helpers.devices import DEVICES
from tests.helpers.effort import FOUR_OR_ALL

BACKENDS = [
    SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION
]  # fmt: skip
LENGTHS = ((3, 2), (40, 2), (17, 1), (5, 9))
Case = tuple[Policy, Deciders | None]


def dtype_on(device: str) -> torch.dtype:
    """What training computes in there: bfloat16 on a GPU, where kernels differ."""
    return torch.float32 if device == "cpu" else torch.bfloat16


def masked(device: str, dim: int = 64) -> tuple[Tensor, Tensor]:
    """Queries (2, 4, 24, dim), and a mask (2, 1, 24, 24) of a row with nine padding tokens and a whole one."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 24, dim, generator=generator).to(device, dtype_on(device)).requires_grad_()
    mask = torch.ones(24, 24, dtype=torch.bool).tril().expand(2, 1, 24, 24).clone()
    mask[0, :, :9] = False  # what they attend to
    mask[0, :, :, :9] = False  # nobody attends to them
    return q, mask.to(device)


def skip_unless_usable(backend: SDPBackend, device: str, dim: int) -> None:
    """Skips where this machine has no such kernel for a mask."""
    q, mask = masked(device, dim)
    try:
        with sdpa_kernel(backend):
            scaled_dot_product_attention(q, q, q, attn_mask=mask)
    except RuntimeError:
        pytest.skip(f"{backend.name} takes no such mask here")


def cases(batch: Batch, random_masks: Any) -> dict[str, Case]:
    """Nothing skipped, whole rows, and single tokens, whose selections are ragged."""
    return {
        "full": (FullDepth(), None),
        "rows": (Forced(random_masks(batch.size)), None),
        "tokens": (Forced(random_masks(len(batch.rows))), batch.deciders),
    }


def masks_seen(skipper: Skipper) -> list[Tensor]:
    """Fills with the attention masks that blocks are called with from now on."""
    seen: list[Tensor] = []
    for layer in skipper.each_layer():

        def spy(*args: Any, original: Any = layer.original, **kwargs: Any) -> Any:
            if kwargs["attention_mask"] is not None:
                seen.append(kwargs["attention_mask"])
            return original(*args, **kwargs)

        layer.original = spy
    return seen


def empty_rows(mask: Tensor) -> Tensor:
    """Which queries attend to nothing: (..., T) bool."""
    allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    return ~allowed.any(dim=-1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mends", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_kernels_stay_finite(backend: SDPBackend, mends: bool, device: str) -> None:
    """A query that attends to nothing, forward and backward: cuDNN's alone needs a mended mask."""
    if backend is SDPBackend.CUDNN_ATTENTION and not mends:
        pytest.skip("it is never given such a mask")
    skip_unless_usable(backend, device, 64)
    q, mask = masked(device)
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(q, q, q, attn_mask=mended(mask) if mends else mask)
    out[mask.any(-1).expand(2, 4, 24)].float().square().sum().backward()
    assert out.isfinite().all() and q.grad is not None and q.grad.isfinite().all()


@pytest.mark.parametrize("implementation", MASKED)
@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_no_row_of_a_mended_mask_is_empty(
    family: str, implementation: str, skipping: Any, ragged: Any, examples: Any, random_masks: Any
) -> None:
    """Teacher forcing of every kind, prompts padded on either side, and decoding with a cache."""
    model, skipper = skipping(family)
    model.set_attn_implementation(implementation)
    batch: Batch = ragged(*LENGTHS)
    right = {"input_ids": batch.input_ids.flip(1), "attention_mask": batch.attention_mask.flip(1)}
    prompts = [e.prompt for e in examples(*LENGTHS)]
    seen = masks_seen(skipper)
    for context, mends in ((nullcontext(), False), (mended_masks(), True)):
        with context, torch.no_grad():
            for policy, deciders in cases(batch, random_masks).values():
                with skipper.using(policy, deciders):
                    target_logits(model, batch)
            model(**right)
            decode(model, skipper, prompts, eos=1, pad=2, max_new_tokens=3)
        assert len(seen) > 20 and any(empty_rows(mask).any() for mask in seen) != mends
        seen.clear()


@pytest.mark.parametrize("window", [None, 3])
def test_windows_are_mended_too(window: int | None, skipping: Any, ragged: Any) -> None:
    """Layers with a window and layers without one, each with a mask of its own; a window may hold padding alone."""
    model, skipper = skipping("gemma3")
    skipper.config.sliding_window = window or skipper.config.sliding_window
    batch: Batch = ragged(*LENGTHS)
    seen = masks_seen(skipper)
    with torch.no_grad(), mended_masks():
        target_logits(model, batch)
        model(input_ids=batch.input_ids.flip(1), attention_mask=batch.attention_mask.flip(1))
    assert len({id(mask) for mask in seen[:6]}) == 2 and not any(empty_rows(mask).any() for mask in seen)


@pytest.mark.parametrize("case", ["full", "rows", "tokens"])
@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_mending_changes_no_bit_of_what_counts(
    family: str, case: str, skipping: Any, ragged: Any, random_masks: Any
) -> None:
    """Logits at the targets and every gradient: nobody attends to what attends to everything."""
    model, skipper = skipping(family, lora=True)
    model.train()
    for p in model.parameters():
        p.requires_grad_(p.is_floating_point())
    batch: Batch = ragged(*LENGTHS)
    found = []
    for context in (nullcontext(), mended_masks()):
        policy, deciders = cases(batch, random_masks)[case]
        with context, sdpa_kernel(SDPBackend.MATH), skipper.using(policy, deciders):
            logits = target_logits(model, batch)
            logits.square().mean().backward()
        found.append([logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        model.zero_grad(set_to_none=True)
    assert len(found[0]) > 20 and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["full", "rows", "tokens"])
def test_gradients_of_padded_rows_are_finite_with_every_kernel(
    case: str, backend: SDPBackend, device: str, skipping: Any, ragged: Any, random_masks: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Left padding and ragged selections; with mended masks, as on every device but the CPU. cuDNN's kernel too."""
    skip_unless_usable(backend, device, 8)
    monkeypatch.setattr(attention, "SAFE", [backend])  # or the pass chooses
    model, skipper = skipping(lora=True)
    model.to(device, dtype_on(device)).train()
    for p in model.parameters():
        p.requires_grad_(p.is_floating_point())
    batch: Batch = ragged(*LENGTHS).to(device)
    policy, deciders = cases(batch, random_masks)[case]
    with mended_masks(), sdpa_kernel(backend), skipper.using(policy, deciders):
        logits = target_logits(model, batch)
        logits.square().mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in model.parameters()) > 10


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("run", ["pass", "disabled", "fast"])
def test_every_pass_of_a_skipping_model_is_safe(run: str, device: str, skipping: Any) -> None:
    """Masks are mended in the pass on every device but the CPU; on CUDA the kernel is chosen, and chosen back."""
    model, skipper = skipping()
    model.to(device)
    if run == "fast":
        assert use_fast_path(model)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    found = []

    def look(*_: Any) -> None:
        registered = AttentionMaskInterface()
        mends = [ALL_MASK_ATTENTION_FUNCTIONS[name] is not registered[name] for name in MASKED]
        found.append((mends, torch.backends.cuda.cudnn_sdp_enabled()))

    model.get_input_embeddings().register_forward_hook(look)
    ids, mask = (torch.tensor(x, device=device) for x in ([[2, 2, 5], [3, 4, 5]], [[0, 0, 1], [1, 1, 1]]))
    with torch.no_grad(), skipper.disabled() if run == "disabled" else nullcontext():
        model(ids, attention_mask=mask)
        with pytest.raises((RuntimeError, ValueError)):
            model(inputs_embeds=torch.zeros(1, 2, 7, device=device))  # no such width
    assert found == [([device != "cpu"] * 2, before and device == "cpu")]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before and skipper.state.current is None
    assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is sdpa_mask


def test_cudnn_is_left_out_on_cuda_and_nothing_is_chosen_elsewhere() -> None:
    with safe_attention("cuda"):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled() and SDPBackend.CUDNN_ATTENTION not in SAFE
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with safe_attention("cpu"):
        assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_a_mask_is_mended_where_it_allows_nothing() -> None:
    allows = torch.tensor([[[False, False], [True, False]]])
    assert mended(allows).tolist() == [[[True, True], [True, False]]]
    for least in (torch.finfo(torch.float16).min, -torch.inf):
        added = torch.zeros(allows.shape, dtype=torch.float16).masked_fill(~allows, least)
        assert mended(added).tolist() == [[[0, 0], [0, least]]]


def test_mending_may_be_nested_and_ends_as_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with several threads, and where someone has put another function there."""

    def own(*args: Any, **kwargs: Any) -> Any:
        return sdpa_mask(*args, **kwargs)

    def makes() -> tuple[Callable[..., Any], ...]:
        return tuple(ALL_MASK_ATTENTION_FUNCTIONS[name] for name in MASKED)

    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS, "eager", own)
    before = makes()
    with mended_masks():
        inside = makes()
        assert all(a is not b for a, b in zip(inside, before, strict=True))
        with mended_masks():
            assert makes() == inside
        entered, may_leave = threading.Event(), threading.Event()

        def other() -> None:
            with mended_masks():
                entered.set()
                may_leave.wait(10)

        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(10)
    assert makes() == inside, "the other thread is still inside"
    may_leave.set()
    thread.join()
    assert makes() == before


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fast", [False, True])
def test_padded_rows_decode_as_single_rows(
    fast: bool, device: str, skipping: Any, examples: Any, random_masks: Any
) -> None:  # fmt: skip
    model, skipper = skipping()
    model.to(device)
    if fast:
        assert use_fast_path(model)
    prompts = [e.prompt for e in examples((3, 1), (40, 1), (17, 1))]
    for policy in (Forced(random_masks(1)), Threshold(0.5)):
        with skipper.using(policy):
            together = decode(model, skipper, prompts, eos=1, pad=2, max_new_tokens=6)
            alone = [decode(model, skipper, [p], eos=1, pad=2, max_new_tokens=6)[0] for p in prompts]
        assert [d.tokens for d in together] == [d.tokens for d in alone]
        assert [torch.stack(d.runs).tolist() for d in together] == [torch.stack(d.runs).tolist() for d in alone]
