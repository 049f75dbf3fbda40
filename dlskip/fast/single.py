"""All layers for one token of one row, through compiled code (see ``dlskip.fast.compiled``)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dlskip.fast.block import FastBlock, LayerInputs
from dlskip.fast.compiled import Shape, compiled
from dlskip.skip import Skipper
from dlskip.skip.layer import SkipLayer
from dlskip.skip.passes import Pass
from dlskip.skip.step import step


class SingleToken:
    """Takes the place of the loop over layers where a pass is one token of one row on a CPU.

    Args:
        blocks: The layers.
        skipper: Their adapters, heads and counter; none is missing, and heads are read before a layer.

    Raises:
        DlskipError: The code could not be compiled.
    """

    def __init__(self, blocks: list[FastBlock], skipper: Skipper) -> None:
        self.blocks = blocks
        self.skipper = skipper
        adapter, first = skipper.controllers()[0]
        block = blocks[0]
        head = first.out
        shape = Shape(
            dim=block.qkv.shape[1], inner=len(block.gate), bottleneck=skipper.bottleneck,
            heads=block.heads, kv_heads=block.kv_heads, head_dim=block.head_dim,
            eps=float(block.norms[0].variance_epsilon), read=len(head.weight),
            dtype=_name(block.qkv), adapter=_name(adapter.down.weight),
        )  # fmt: skip
        self.enter, self.leave, self.skipped = compiled(shape)
        none = [torch.zeros_like(head.weight), torch.zeros_like(head.bias)]  # of layers that decide nothing
        self.adapters = [_adapter(layer, none) for layer in skipper.each_layer()]
        self.before_attention = [
            [b.norms[0].weight, b.qkv, _bias(b.qkv_bias, b.qkv), *adapter]
            for b, adapter in zip(blocks, self.adapters, strict=True)
        ]
        self.after_attention = [
            [b.out, _bias(b.out_bias, b.out), b.norms[1].weight, b.gate, b.up, b.down] for b in blocks
        ]

    def __call__(self, h: Tensor, inputs: LayerInputs, current: Pass) -> Tensor:
        """Maps (1, 1, D) to the last layer's output, (1, 1, D)."""
        token = _CompiledRunner(self, inputs, current)
        state = self.skipper.state
        h = h.view(-1)
        for index in range(len(self.blocks)):
            h = step(token, state, current, index, h)
        return h.view(1, 1, -1)


class _CompiledRunner:
    """The layers of one pass as compiled code (a ``LayerRunner``), which takes hidden states (D,).

    One call computes adapter, head and what comes before a block's attention; or, where the block is skipped, adapter,
    head and the layer's output. The adapter's output is added inside of the code.

    Args:
        code: The code and its weights.
        inputs: What the layers of the pass share.
        current: The pass.
    """

    late = False

    def __init__(self, code: SingleToken, inputs: LayerInputs, current: Pass) -> None:
        self.code = code
        self.current = current
        self.mask = inputs.mask
        self.cos, self.sin = inputs.cos.reshape(-1), inputs.sin.reshape(-1)
        self.ran = current.counter.ran

    def adapt(self, index: int, h: Tensor) -> list[Tensor]:
        """Queries, keys, values, adapted and what the head read; of a layer that is skipped its output and the last."""
        code = self.code
        if self.current.count(index):
            return code.enter([h, self.cos, self.sin, *code.before_attention[index]])
        return code.skipped([h, *code.adapters[index]])

    def read(self, index: int, h: Tensor, adapted: list[Tensor] | None) -> tuple[Tensor, Tensor]:
        """The logit (1,) and the state (1, D) that it was read from."""
        assert adapted is not None
        read = adapted[-1]
        return read if len(read) == 1 else read[:1] + self.current.price * read[1:], h[None]

    def decide(self, layer: int, said: tuple[Tensor, Tensor] | None) -> None:
        """As of ``LayerRunner``."""
        logit, state = (None, None) if said is None else said
        if not self.current.decide_alone(layer, None if logit is None else logit.item()):
            self.current.decide(layer, logit, state)

    def run(self, index: int, h: Tensor, adapted: list[Tensor]) -> Tensor:
        """The layer's output, with the adapter's."""
        cache = self.current.cache
        if len(adapted) == 2:
            if cache is not None:
                cache.fill(index)
            return adapted[0]
        self.ran[index] += 1
        q, k, v, residual, _ = adapted
        if cache is not None:
            k, v = cache.put(k, v, index, None)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        (out,) = self.code.leave([h, mixed, residual, *self.code.after_attention[index]])
        return out

    def add(self, h: Tensor, adapted: list[Tensor]) -> Tensor:
        """Nothing: it was added."""
        return h


def _adapter(layer: SkipLayer, none: list[Tensor]) -> list[Tensor]:
    """Weights of a layer's adapter and head."""
    assert layer.adapter is not None
    down, up, head = layer.adapter.down, layer.adapter.up, layer.head
    biases = [x.detach().to(torch.float32) for x in (down.bias, up.bias)]
    read = none if head is None else [x.detach().to(torch.float32) for x in (head.out.weight, head.out.bias)]
    return [down.weight.detach(), biases[0], up.weight.detach(), biases[1], *read]


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _bias(bias: Tensor | None, weight: Tensor) -> Tensor:
    return weight.new_zeros(len(weight)) if bias is None else bias
