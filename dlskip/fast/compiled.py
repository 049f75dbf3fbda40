"""One token of one row through compiled code: two calls around a layer's attention, or one if the layer is skipped.

A CPU decodes as fast as it reads weights, if nothing else costs time. What does is the start of some thirty small
operations per layer, and general matrix products that are given one vector. Here the compiler fuses norm, products,
rotation, adapter and controller into three functions that take a layer's weights as arguments: compiled once, they
serve all layers, and every model of the same shape.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlskip.errors import DlskipError

Call = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Shape:
    """What the compiled code is specialised for.

    Args:
        dim, inner, bottleneck: D, the feed-forward width, r of the adapters.
        heads, kv_heads, head_dim: Of the attention.
        eps: Of the norms.
        read: Rows of a controller head (2 if it is conditioned on the price).
        dtype, adapter: Of the backbone and of the adapters, as ``str``; all arithmetic beside a layer is in float32.
    """

    dim: int
    inner: int
    bottleneck: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    read: int
    dtype: str
    adapter: str


class Enter(nn.Module):
    """A layer's arithmetic before its attention, its adapter, and the head that decides about the next layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(
        self, h: Tensor, cos: Tensor, sin: Tensor, norm: Tensor, qkv: Tensor, bias: Tensor, *adapter: Tensor
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """``h`` (D,) to queries (1, K, H / K, d), keys and values (1, K, 1, d), adapted (D,) and what the head reads.

        Args:
            h: The hidden state.
            cos, sin: (d,), the first half of ``sin`` negated.
            norm, qkv, bias: Weights; the bias is zero where the layer has none.
            adapter: Adapter and head, see ``Skipped``.
        """
        s = self.shape
        x = (torch.mv(qkv, _normed(h, norm, s.eps)) + bias).view(-1, s.head_dim)
        rotating, half = s.heads + s.kv_heads, s.head_dim // 2
        qk = x[:rotating]
        qk = qk * cos + torch.cat((qk[:, half:], qk[:, :half]), dim=1) * sin
        q = qk[: s.heads].reshape(1, s.kv_heads, -1, s.head_dim)
        k = qk[s.heads :].reshape(1, s.kv_heads, 1, s.head_dim)
        return q, k, x[rotating:].reshape(1, s.kv_heads, 1, s.head_dim), *_adapter(h, *adapter)


class Leave(nn.Module):
    """A layer's arithmetic after its attention, and the adapter's addition."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def forward(
        self, h: Tensor, mixed: Tensor, adapted: Tensor, out: Tensor, bias: Tensor, norm: Tensor, gate: Tensor,
        up: Tensor, down: Tensor,
    ) -> tuple[Tensor]:  # fmt: skip
        """``h`` (D,), the attention's values (1, K, H / K, d) and adapted (D,) to the layer's output (D,)."""
        h = h + (torch.mv(out, mixed.reshape(-1)) + bias)
        x = _normed(h, norm, self.shape.eps)
        h = h + torch.mv(down, F.silu(torch.mv(gate, x)) * torch.mv(up, x))
        return (h + adapted.to(h.dtype),)


class Skipped(nn.Module):
    """What a skipped layer computes: its adapter, and the head that decides about the next layer."""

    def forward(self, h: Tensor, *adapter: Tensor) -> tuple[Tensor, Tensor]:
        """``h`` (D,) to the layer's output (D,) and what the head reads."""
        adapted, read = _adapter(h, *adapter)
        return h + adapted.to(h.dtype), read


class Product(nn.Module):
    """The output layer: a weight (V, D) and ``x`` (D,) to (V,)."""

    def forward(self, weight: Tensor, x: Tensor) -> tuple[Tensor]:
        """One product."""
        return (torch.mv(weight, x),)


def _normed(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = h.to(torch.float32)
    return (x * torch.rsqrt(x.square().mean() + eps)).to(h.dtype) * weight


def _adapter(
    h: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor, head: Tensor, head_bias: Tensor
) -> tuple[Tensor, Tensor]:
    h, down, up = h.to(torch.float32), down.to(torch.float32), up.to(torch.float32)  # in registers, as they are read
    adapted = torch.mv(up, F.gelu(torch.mv(down, h) + down_bias)) + up_bias
    return adapted, torch.mv(head, F.gelu(adapted)) + head_bias


@cache
def compiled(shape: Shape) -> tuple[Call, Call, Call]:
    """``Enter``, ``Leave`` and ``Skipped`` for a shape, from the disk if they were compiled before.

    Raises:
        DlskipError: There is no C++ compiler, or it failed.
    """
    dtype = getattr(torch, shape.dtype)
    h, wide = torch.zeros(shape.dim, dtype=dtype), torch.zeros(shape.dim)
    token = torch.zeros(shape.head_dim, dtype=dtype)
    heads = shape.heads + 2 * shape.kv_heads
    qkv = torch.zeros(heads * shape.head_dim, shape.dim, dtype=dtype)
    narrow, kept = torch.zeros(shape.bottleneck), getattr(torch, shape.adapter)
    down, up = (torch.zeros(*size, dtype=kept) for size in ((len(narrow), shape.dim), (shape.dim, len(narrow))))
    head = torch.zeros(shape.read, shape.dim)
    adapter = (down, narrow, up, wide, head, head[:, 0].clone())
    mixed = torch.zeros(1, shape.kv_heads, shape.heads // shape.kv_heads, shape.head_dim, dtype=dtype)
    out = torch.zeros(shape.dim, mixed.numel(), dtype=dtype)
    gate = torch.zeros(shape.inner, shape.dim, dtype=dtype)
    return (
        _compiled("enter", Enter(shape), (h, token, token.clone(), h.clone(), qkv, qkv[:, 0].clone(), *adapter), shape),
        _compiled(
            "leave", Leave(shape),
            (h, mixed, wide, out, h.clone(), h.clone(), gate, gate.clone(), gate.t().contiguous()), shape,
        ),
        _compiled("skipped", Skipped(), (h, *adapter), shape),
    )  # fmt: skip


@cache
def compiled_product(rows: int, dim: int, dtype: torch.dtype) -> Call:
    """``Product`` for a weight (rows, dim); errors as of ``compiled``."""
    weight = torch.zeros(rows, dim, dtype=dtype)
    return _compiled("product", Product(), (weight, weight[0].clone()), (rows, dim, str(dtype)))


def _compiled(name: str, module: nn.Module, example: tuple[Tensor, ...], shape: Any) -> Call:
    inductor: Any = torch._inductor
    path = _folder(shape) / f"{name}.pt2"
    if not path.is_file():
        print(f"compiling {name} for this machine, once (kept in {path.parent}) ...", file=sys.stderr, flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's about itself
            try:
                made = inductor.aoti_compile_and_package(
                    torch.export.export(module, example), package_path=str(Path(scratch, path.name)),
                    inductor_configs={"cpp.dynamic_threads": True},
                )  # fmt: skip
            except Exception as error:  # of the compiler, of many kinds
                raise DlskipError(
                    f"could not compile: {str(error).strip().splitlines()[0]}",
                    where="compile=True",
                    mend="install a C++ compiler (g++), or leave compile out",
                ) from error
            Path(made).replace(path)
    package = inductor.aoti_load_package(str(path))

    def call(inputs: list[Tensor]) -> list[Tensor]:  # a function, which a model that is copied may hold
        outputs: list[Tensor] = package.loader.run(inputs)
        return outputs

    return call


def _folder(shape: Any) -> Path:
    """Where compiled code is kept (DLSKIP_CACHE): apart for each machine, version of torch and version of this file."""
    cpu = Path("/proc/cpuinfo")
    flags = next((x for x in cpu.read_text().splitlines() if x.startswith("flags")), "") if cpu.is_file() else ""
    parts = (shape, torch.__version__, platform.machine(), flags, inspect.getsource(sys.modules[__name__]))
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    base = os.environ.get("DLSKIP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "dlskip")
    return Path(base, "compiled", key).expanduser()
