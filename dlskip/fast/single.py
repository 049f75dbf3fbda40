"""All layers for one token of one row, through compiled code (see ``dlskip.fast.compiled``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dlskip.fast.block import FastBlock, Span
from dlskip.fast.compiled import Shape, compiled
from dlskip.skip import Skipper
from dlskip.skip.adapter import Adapter, Head
from dlskip.skip.passes import Pass


class SingleToken:
    """Takes the place of the loop over layers where a pass is one token of one row on a CPU.

    Args:
        blocks: The layers.
        skipper: Their adapters, heads and counter; none is missing, and heads are read before a layer.

    Raises:
        DlskipError: The code could not be compiled.
    """

    def __init__(self, blocks: list[FastBlock], skipper: Skipper) -> None:
        self.blocks, self.skipper = blocks, skipper
        first: Any = skipper.layers[0]
        block, head = blocks[0], first.head.out
        shape = Shape(
            dim=block.qkv.shape[1], inner=len(block.gate), bottleneck=first.adapter.down.out_features,
            heads=block.heads, kv_heads=block.kv_heads, head_dim=block.head_dim,
            eps=float(block.norms[0].variance_epsilon), read=len(head.weight),
            dtype=_name(block.qkv), adapter=_name(first.adapter.down.weight),
        )  # fmt: skip
        self.enter, self.leave, self.beside = compiled(shape)
        none = [torch.zeros_like(head.weight), torch.zeros_like(head.bias)]  # of layers that decide nothing
        self._beside = [_beside(layer.adapter, layer.head, none) for layer in skipper.layers]  # type: ignore[arg-type]
        self._enter = [
            [b.norms[0].weight, b.qkv, _bias(b.qkv_bias, b.qkv), *beside]
            for b, beside in zip(blocks, self._beside, strict=True)
        ]
        self._leave = [[b.out, _bias(b.out_bias, b.out), b.norms[1].weight, b.gate, b.up, b.down] for b in blocks]

    def __call__(self, h: Tensor, span: Span, current: Pass) -> Tensor:
        """Maps (1, 1, D) to the last layer's output, (1, 1, D)."""
        counter, cache = self.skipper.counter, current.cache
        h, cos, sin = h.view(-1), span.cos.reshape(-1), span.sin.reshape(-1)
        for index in range(len(self.blocks)):
            runs = current.count(index)
            counter.decided[index] += runs
            counter.ran[index] += runs
            if not runs:
                before = h
                h, read = self.beside([h, *self._beside[index]])
                _decide(current, index + 1, before, read)
                if cache is not None:
                    cache.fill(index)
                continue
            q, k, v, adapted, read = self.enter([h, cos, sin, *self._enter[index]])
            _decide(current, index + 1, h, read)
            if cache is not None:
                k, v = cache.put(k, v, index, None)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=span.mask)
            (h,) = self.leave([h, mixed, adapted, *self._leave[index]])
        return h.view(1, 1, -1)


def ask(current: Pass, layer: int, logit: Tensor | None, state: Tensor | None, *, single: bool) -> None:
    """Asks the policy who runs ``layer`` (see ``Policy.decide``); ``single``: one deciding token, on the CPU."""
    if single and (alone := current.policy.alone(layer, None if logit is None else logit.item())) is not None:
        current.answer(layer, alone)
    else:
        current.note(layer, current.policy.decide(layer, logit, state))


def _decide(current: Pass, layer: int, h: Tensor, read: Tensor) -> None:
    """Asks about ``layer``, if it may be skipped; ``read`` is what the head made of ``h`` (D,)."""
    if not current.is_free(layer):
        return
    logit, state = None, None
    if current.policy.uses_heads:
        logit = read if len(read) == 1 else read[:1] + current.price * read[1:]
        state = h[None]
    ask(current, layer, logit, state, single=True)


def _beside(adapter: Adapter, head: Head | None, none: list[Tensor]) -> list[Tensor]:
    down, up = adapter.down, adapter.up
    biases = [x.detach().to(torch.float32) for x in (down.bias, up.bias)]
    read = none if head is None else [x.detach().to(torch.float32) for x in (head.out.weight, head.out.bias)]
    return [down.weight.detach(), biases[0], up.weight.detach(), biases[1], *read]


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _bias(bias: Tensor | None, weight: Tensor) -> Tensor:
    return weight.new_zeros(len(weight)) if bias is None else bias
