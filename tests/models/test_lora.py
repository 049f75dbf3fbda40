"""The fast LoRA linear against PEFT's own: same outputs, same gradients, same files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from dlskip.models import lora, tuning
from dlskip.models.tiny import FAMILIES, tiny
from tests.helpers.sections import tune

X = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pair(bias: bool, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.Module, nn.Module]:
    """The same random LoRA linear in PEFT's form and in ours."""
    torch.manual_seed(1)
    base: Any = nn.Sequential(nn.Linear(12, 7, bias=bias)).to(dtype)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["0"], **options)
    plain = get_peft_model(copy.deepcopy(base), copy.deepcopy(config))
    for name, p in plain.named_parameters():
        if "lora_" in name:
            p.data = torch.randn(p.shape).to(dtype if dtype == torch.float64 else torch.float32)
    fast = get_peft_model(base, lora.with_fast_linears(config))
    for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
        one.data = other.data.clone()
    return plain, fast


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradient of the input, gradients of A and B."""
    x = x.clone().requires_grad_(True)
    y = model(x)
    (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for n, p in model.named_parameters() if "lora_" in n and p.grad is not None)]


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_peft_s(bias: bool) -> None:
    plain, fast = pair(bias)
    assert any(isinstance(m, lora.FastLinear) for m in fast.modules())
    expected, found = results(plain, X), results(fast, X)
    assert len(found) == 4
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one)


def test_in_bfloat16_gradients_arrive_in_float32_and_are_close() -> None:
    plain, fast = pair(True, torch.bfloat16)
    expected, found = results(plain, X.bfloat16()), results(fast, X.bfloat16())
    assert [g.dtype for g in found] == [torch.bfloat16] * 2 + [torch.float32] * 2
    for one, other in zip(expected, found, strict=True):
        assert (one - other).float().norm() < 0.02 * one.float().norm()


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}])
def test_other_kinds_of_lora_go_peft_s_way(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = pair(True, **options)
    went = []
    original = LoraLinear.forward
    monkeypatch.setattr(LoraLinear, "forward", lambda *a, **k: went.append(1) or original(*a, **k))
    fast(X)
    assert went


def test_merged_and_disabled_adapters_go_peft_s_way() -> None:
    plain, fast = pair(True)
    y = fast(X)
    with fast.disable_adapter():  # type: ignore[operator]
        assert torch.equal(fast(X), plain.base_model.model[0].base_layer(X))  # type: ignore[index, union-attr, operator]
    fast.merge_adapter()  # type: ignore[operator]
    torch.testing.assert_close(fast(X), y)
    fast.unmerge_adapter()  # type: ignore[operator]
    torch.testing.assert_close(fast(X), y)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_leaves_every_family_as_it_was(family: str) -> None:
    ids = torch.arange(3, 20)[None]
    before = tiny(family)(input_ids=ids).logits
    torch.testing.assert_close(tuning.make_trainable(tiny(family), tune(r=4))(input_ids=ids).logits, before)


def test_the_file_does_not_tell_them_apart(tmp_path: Path) -> None:
    model = tuning.make_trainable(tiny("llama"), tune(r=4))
    assert any(isinstance(m, lora.FastLinear) for m in model.modules())
    tuning.save_tuned(model, tmp_path)
    loaded = tuning.load_tuned(tiny("llama"), tmp_path)
    assert any(isinstance(m, lora.FastLinear) for m in loaded.modules())
    assert not any(isinstance(m, LoraLinear) for m in tuning.merged(loaded).modules())
