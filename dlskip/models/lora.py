"""LoRA linears that compute in the backbone's dtype: PEFT's modules and files, with less work in forward and backward.

PEFT keeps LoRA's weights in float32 and casts each input up to them, which on a CPU costs about a fifth of a training
step. Here the two small weights are cast down instead, once per call, and every product runs in the
backbone's dtype; the weights, their gradients and the optimizer's state stay in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dlskip import files
from dlskip.errors import DlskipError, offences


class _Product(torch.autograd.Function):
    """``y = x W^T + b + (x A^T) (s B)^T`` with W and b frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        low_a, low_b = a.to(x.dtype), (b * s).to(x.dtype)
        inner = flat @ low_a.T
        y = F.linear(flat, weight, bias).addmm_(inner, low_b.T)
        ctx.save_for_backward(flat, inner, weight, low_a, low_b)
        ctx.scale = s
        ctx.dtypes = (a.dtype, b.dtype)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, inner, weight, low_a, low_b = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        through = g @ low_b
        grad_a = (through.T @ flat).to(ctx.dtypes[0]) if ctx.needs_input_grad[3] else None
        grad_b = (g.T @ inner).to(ctx.dtypes[1]).mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (g @ weight).addmm_(through, low_a).view(*grad.shape[:-1], -1)
        return grad_x, None, None, grad_a, grad_b, None


class FastLinear(LoraLinear):
    """PEFT's LoRA linear; whatever is not plain LoRA on a frozen ``nn.Linear`` goes PEFT's own way."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, **options: Any) -> None:
        super().__init__(base_layer, adapter_name, **options)
        self.fan_in_fan_out = False  # the configuration's is meant for GPT-2's Conv1D

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Maps (..., in) to (..., out), in the dtype of ``x``."""
        base = self.get_base_layer()
        names = [n for n in self.active_adapters if n in self.lora_A]
        plain = not (args or kwargs or self.disable_adapters or self.merged or self.lora_variant or len(names) != 1)
        if not plain or type(base) is not nn.Linear or base.weight.requires_grad or x.dtype != base.weight.dtype:
            return self._by_peft(x, *args, **kwargs)
        (name,) = names
        a, b = self.lora_A[name], self.lora_B[name]
        if a.bias is not None or b.bias is not None or not isinstance(self.lora_dropout[name], nn.Identity):
            return self._by_peft(x, *args, **kwargs)
        product: Tensor = _Product.apply(x, base.weight, base.bias, a.weight, b.weight, self.scaling[name])
        return product

    def _by_peft(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = super().forward(x, *args, **kwargs)
        return y


def with_fast_linears(config: LoraConfig) -> LoraConfig:
    """Has PEFT build a ``FastLinear`` for every linear that this configuration targets.

    Not for a quantized backbone: its linears are subclasses of ``nn.Linear``, for which PEFT has modules of its own.
    """
    config._register_custom_module({nn.Linear: FastLinear})
    return config


class _Stored(BaseModel):
    """What ``adapter_config.json`` says that differs from model to model."""

    model_config = ConfigDict(strict=True)
    r: int = Field(ge=1, le=4096)
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    lora_dropout: float = Field(ge=0, lt=1)
    target_modules: list[str] = Field(min_length=1)
    fan_in_fan_out: bool = False
    init_lora_weights: Literal[True, False, "gaussian"] = True
    peft_type: Literal["LORA"]


_FREE = {*_Stored.model_fields, "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
         "inference_mode", "lora_bias"}  # fmt: skip


def read_config(path: Path) -> LoraConfig:
    """LoRA's configuration in PEFT's format: plain LoRA, as ``save_tuned`` writes it.

    PEFT knows many variants, of which some change the base model's weights, or build what is described in it, however
    large.

    Raises:
        DlskipError: The file is missing or broken, a value is of another type, or it asks for another kind of LoRA.
    """
    found = files.read_json(path)
    usual = LoraConfig().to_dict()
    try:
        _Stored.model_validate(found)
    except ValidationError as error:
        raise DlskipError(offences(error, _Stored.model_fields), where=str(path)) from error
    for name, value in found.items():
        if name not in _FREE and value != usual.get(name) and (name in usual or value):
            raise DlskipError(f"{name}: only plain LoRA is read (got {value!r:.60})", where=str(path))
    try:
        return LoraConfig.from_pretrained(str(path.parent))
    except (TypeError, ValueError, KeyError) as error:
        raise DlskipError(f"cannot be read: {error}", where=str(path)) from error
