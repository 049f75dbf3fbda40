"""Padding never gives a NaN: rows of the attention mask that allow nothing, with every kernel that training may use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from dlskip.data.batches import collate
from dlskip.inference.decode import decode
from dlskip.inference.scoring import hidden_states
from dlskip.skip import Forced
from dlskip.skip.attention import SAFE, safe_attention
from dlskip.skip.stack import output_logits

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
DEVICES = ["cpu", CUDA]
BACKENDS = [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


def usable(backend: SDPBackend, q: Tensor, mask: Tensor) -> bool:
    """Whether this machine has the kernel for such a mask."""
    try:
        with sdpa_kernel(backend):
            scaled_dot_product_attention(q, q, q, attn_mask=mask)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_attend_to_nothing_stay_finite(backend: SDPBackend, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    q = torch.randn(2, 4, 24, 64, generator=generator).to(device, dtype).requires_grad_()
    mask = torch.ones(24, 24, dtype=torch.bool).tril().expand(2, 1, 24, 24).clone()
    mask[0, :, :9] = False  # the queries of nine padding tokens
    mask[0, :, :, :9] = False  # nobody attends to them
    mask = mask.to(device)
    if not usable(backend, q, mask):
        pytest.skip(f"{backend.name} takes no such mask here")
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(q, q, q, attn_mask=mask)
    out[mask.any(-1).expand(2, 4, 24)].float().square().sum().backward()
    assert out.isfinite().all() and q.grad is not None and q.grad.isfinite().all()


def test_cudnn_is_left_out_on_cuda_and_nothing_is_chosen_elsewhere() -> None:
    with safe_attention("cuda"):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled() and SDPBackend.CUDNN_ATTENTION not in SAFE
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with safe_attention("cpu"):
        assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.parametrize("device", DEVICES)
def test_a_pass_of_a_skipping_model_leaves_the_choice_as_it_was(skipping: Any, device: str) -> None:
    model, skipper = skipping()
    model.to(device)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with torch.no_grad():
        model(torch.tensor([[3, 4, 5]], device=device))
    with pytest.raises(RuntimeError):
        model(inputs_embeds=torch.zeros(1, 2, 7, device=device))  # no such width
    assert torch.backends.cuda.cudnn_sdp_enabled() == before and skipper.state.current is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_left_padded_rows_are_finite(
    skipping: Any, examples: Any, random_masks: Any, device: str, masked: bool
) -> None:
    model, skipper = skipping(lora=True)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model.to(device, dtype).train()
    for p in model.parameters():
        p.requires_grad_(p.is_floating_point())
    batch = collate(examples((3, 2), (40, 2), (17, 1), (5, 9)), pad=2).to(device)
    policy = Forced(random_masks(1)) if masked else skipper.policy
    with safe_attention(device), skipper.using(policy):
        logits = output_logits(model, hidden_states(model, batch))
        logits.square().mean().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in model.parameters()) > 10


@pytest.mark.parametrize("device", DEVICES)
def test_padded_rows_decode_as_single_rows(skipping: Any, examples: Any, random_masks: Any, device: str) -> None:
    model, skipper = skipping()
    model.to(device)
    prompts = [e.prompt for e in examples((3, 1), (40, 1), (17, 1))]
    with skipper.using(Forced(random_masks(1))):
        together = decode(model, skipper, prompts, eos=1, pad=2, max_new_tokens=6)
        alone = [decode(model, skipper, [p], eos=1, pad=2, max_new_tokens=6)[0] for p in prompts]
    assert [d.tokens for d in together] == [d.tokens for d in alone]
