"""One Llama-shaped decoder layer as plain tensor operations: no modules, no dispatch, one product for Q, K and V.

``h' = h + W_o attention(norm(h))``, then ``h' + W_down (silu(W_gate x) * W_up x)`` with ``x = norm(h')``, rounding
where Transformers rounds (on CUDA once less in a norm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlskip.fast.slots import Slots
from dlskip.skip.cache import SkipCache
from dlskip.skip.selection import Selection

# Their decoder layers are the same computation (Qwen2 with biases on Q, K and V).
DECODER_LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer")
FEW = 32  # tokens, up to which an adapter's small products are faster in float32 on a CPU
_LINEARS = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}


@dataclass(frozen=True)
class LayerInputs:
    """What every layer of a pass is given besides hidden states.

    Args:
        cos, sin: (B or 1, T, 1, d); the first half of ``sin`` is negated, so that a rotation is two products.
        mask: (B, 1, T, S), boolean or added; None = no padding.
        single: Whether the pass is one token of one row on a CPU, where calls cost as much as arithmetic.
        few: Whether it is a few tokens on a CPU.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    single: bool
    few: bool

    @classmethod
    def of(cls, rope: tuple[Tensor, Tensor], mask: Tensor | None, h: Tensor) -> LayerInputs:
        """From a rotary embedding's (B or 1, T, d), for hidden states (B, T, D)."""
        cos, sin = (x.unsqueeze(2) for x in rope)
        half = sin.shape[-1] // 2
        tokens = h.shape[0] * h.shape[1] if h.device.type == "cpu" else FEW + 1
        return cls(cos, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1), mask, tokens == 1, tokens <= FEW)

    def take(self, selection: Selection | None) -> LayerInputs:
        """The same for the rows selected."""
        if selection is None:
            return self
        mask = None if self.mask is None else selection.take_mask(self.mask)
        cos, sin = selection.take_positions(self.cos), selection.take_positions(self.sin)
        return LayerInputs(cos, sin, mask, single=False, few=self.few)


class FastBlock:
    """Runs a decoder layer's weights; they stay the layer's own (Q, K and V become views of one tensor).

    Args:
        block: A layer for which ``supported`` holds.
        index: l, from 0: its place in the cache.
    """

    def __init__(self, block: Any, index: int) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.index = index
        self.head_dim = int(attention.head_dim)
        self.heads = attention.q_proj.out_features // self.head_dim
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        self.norms = block.input_layernorm, block.post_attention_layernorm
        self.qkv, self.qkv_bias = _fused([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out, self.out_bias = attention.o_proj.weight, attention.o_proj.bias
        self.gate, self.up, self.down = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight

    def __call__(
        self, h: Tensor, inputs: LayerInputs, cache: SkipCache | Slots | None, selection: Selection | None = None
    ) -> Tensor:  # fmt: skip
        """Maps hidden states (B', T, D) of the rows that run to the layer's output.

        Args:
            h: Hidden states.
            inputs: Of these rows.
            cache: Takes their keys and values; None = attend to the new tokens alone.
            selection: Which rows of the batch they are; None = all.
        """
        rows, tokens = h.shape[:2]
        q, k, v = self._project(h, inputs)
        if cache is not None:
            k, v = cache.put(k, v, self.index, selection)
        if tokens == 1:  # the queries that share a key stand in for tokens: no key is repeated
            q = q.view(rows, self.kv_heads, -1, self.head_dim)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=inputs.mask)
        else:
            mixed = F.scaled_dot_product_attention(
                q.transpose(1, 2), k, v, attn_mask=inputs.mask, is_causal=inputs.mask is None, enable_gqa=True
            ).transpose(1, 2)
        h = h + _linear(mixed.reshape(rows, tokens, -1), self.out, self.out_bias)
        x = normed(self.norms[1], h, inputs.single)
        return h + F.linear(F.silu(F.linear(x, self.gate)) * F.linear(x, self.up), self.down)

    def fill(self, h: Tensor, inputs: LayerInputs, cache: SkipCache, selection: Selection | None) -> None:
        """`project` fill: this layer's keys and values of the rows that skip it (B', T, D)."""
        _, k, v = self._project(h, inputs)
        cache.merge(k, v, selection)

    def _project(self, h: Tensor, inputs: LayerInputs) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B', T, H, d), keys and values (B', K, T, d), rotated."""
        x = _linear(normed(self.norms[0], h, inputs.single), self.qkv, self.qkv_bias)
        x = x.view(*x.shape[:2], -1, self.head_dim)
        rotating = self.heads + self.kv_heads
        half = self.head_dim // 2
        qk = x[:, :, :rotating]
        swapped = torch.cat((qk[..., half:], qk[..., :half]), dim=-1)
        qk = torch.addcmul(qk * inputs.cos, swapped, inputs.sin)
        return qk[:, :, : self.heads], qk[:, :, self.heads :].transpose(1, 2), x[:, :, rotating:].transpose(1, 2)


def normed(norm: Any, h: Tensor, single: bool) -> Tensor:
    """RMSNorm, rounded as the module's own forward; a single token's sum of squares goes through Python.

    On CUDA it is one kernel instead of eight, which rounds once less.
    """
    if h.is_cuda:
        return F.rms_norm(h, h.shape[-1:], norm.weight, norm.variance_epsilon)
    if not single:
        whole: Tensor = norm(h)
        return whole
    x = h.to(torch.float32)
    flat = x.view(-1)
    scale = (torch.dot(flat, flat).item() / len(flat) + norm.variance_epsilon) ** -0.5
    scaled: Tensor = (x * scale).to(h.dtype) * norm.weight
    return scaled


def supported(block: nn.Module) -> bool:
    """Whether ``FastBlock`` computes what ``block`` does: a known family, bare linears, nobody listening inside."""
    if type(block).__name__ not in DECODER_LAYERS or block.training:
        return False
    parts: Any = block
    for owner, names in _LINEARS.items():
        for name in names:
            linear = getattr(getattr(parts, owner), name)
            if type(linear) is not nn.Linear or "forward" in vars(linear):
                return False
    if any(getattr(parts.mlp, name).bias is not None for name in _LINEARS["mlp"]):
        return False
    attention = parts.self_attn
    if attention.scaling != attention.head_dim**-0.5:
        return False
    if type(parts.mlp.act_fn).__name__ not in ("SiLU", "SiLUActivation"):
        return False
    return not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # Added afterwards: of one token on a CPU, a product with a bias is several times as slow as one without.
    y = F.linear(x, weight)
    return y if bias is None else y + bias


@torch.inference_mode(mode=False)
def _fused(linears: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """One weight for several products: the linears' own become views of it, unless they are already."""
    weights = [linear.weight for linear in linears]
    whole = weights[0].data
    at = weights[0].data_ptr()
    for weight in weights:
        if weight.data_ptr() != at or not weight.is_contiguous() or _storage(weight) != _storage(whole):
            whole = torch.cat([w.data for w in weights])
            for linear, view in zip(linears, whole.split([len(w) for w in weights]), strict=True):
                linear.weight.data = view
            break
        at += weight.numel() * weight.element_size()
    else:
        whole = whole.as_strided((sum(map(len, weights)), whole.shape[1]), (whole.shape[1], 1))
    if linears[0].bias is None:
        return whole, None
    return whole, torch.cat([linear.bias.data for linear in linears])


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
