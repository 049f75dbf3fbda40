"""Decoding on a GPU as work recorded once and sent again: a few CUDA graphs per layer, chosen by the decisions.

A GPU computes one token through one layer in less time than Python takes to ask for it, operation by operation. Here
a layer's block on n rows, and what it does when it is skipped, are recorded as graphs over tensors at fixed addresses,
each with the adapter and head of the layer above. The decision about layer l + 1 leaves for the host before layer l
starts, and is awaited when layer l has been sent off: the device has its work while the host learns what comes next.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dlskip.fast.block import FastBlock, LayerInputs
from dlskip.fast.recording import Logits, Recorder, Work
from dlskip.fast.slots import Slots
from dlskip.skip import Policy, Sampled, Skipper
from dlskip.skip.attention import safe_attention
from dlskip.skip.passes import Pass
from dlskip.skip.selection import Selection
from dlskip.skip.step import step

DEVICES = ("cuda",)
LEAST = 256  # tokens that there is room for at first
MOST = 32  # rows: each layer may be recorded once for each number of them that runs it


class Steps:
    """All layers for one token of B rows, in the place of the loop over layers.

    Args:
        blocks: The layers.
        skipper: Their adapters, heads and counter.
        batch: B.
        capacity: S, most tokens of a row.
    """

    def __init__(self, blocks: list[FastBlock], skipper: Skipper, batch: int, capacity: int) -> None:
        self.blocks = blocks
        self.skipper = skipper
        self.batch = batch
        head = skipper.controllers()[0][1].out
        weight = blocks[0].qkv
        head_dim = blocks[0].head_dim
        layers = len(blocks)
        dtype = weight.dtype
        device = weight.device
        dim = weight.shape[1]
        self.slots = Slots(layers, batch, blocks[0].kv_heads, capacity, head_dim, dtype=dtype, device=device)
        self.logits = Logits(layers, batch, head.out_features, device)
        self.h = torch.zeros(batch, 1, dim, dtype=dtype, device=device)
        self.adapted = torch.zeros_like(self.h)
        turn = torch.zeros(batch, 1, 1, head_dim, dtype=dtype, device=device)
        mask = torch.zeros(batch, 1, 1, capacity, dtype=torch.bool, device=device)
        self.inputs = LayerInputs(turn, turn.clone(), mask, single=False, few=False)
        self.rows = list(torch.zeros(layers, batch, dtype=torch.long, device=device))
        self._shown = 0  # how far the mask is set
        self._record = Recorder(device)
        self._recorded: dict[tuple[str, int, int, bool], Work] = {}
        self._done: set[tuple[str, int, bool]] = set()  # kinds of work that was done once

    def __call__(self, h: Tensor, inputs: LayerInputs, current: Pass) -> Tensor:
        """Maps (B, 1, D) to the last layer's output, (B, 1, D), which the next call overwrites."""
        cache = current.cache
        state = self.skipper.state
        assert cache is not None
        self._begin(h, inputs, current)
        token = _RecordedRunner(self, current)
        for index in range(len(self.blocks)):
            step(token, state, current, index, self.h)
        layers: Any = cache.layers
        for layer in layers:
            layer.length += 1
        return self.h

    def _begin(self, h: Tensor, inputs: LayerInputs, current: Pass) -> None:
        """Puts the token, its place and who may look where to the addresses that were recorded."""
        cache = current.cache
        mask = self.inputs.mask
        assert cache is not None and mask is not None
        past = cache.get_seq_length()
        self.slots.take_in(cache)
        self.slots.position.fill_(past)
        self.h.copy_(h)
        self.inputs.cos.copy_(inputs.cos)
        self.inputs.sin.copy_(inputs.sin)
        if self._shown > past + 1:
            mask[..., past + 1 :] = False
        self._shown = past + 1
        if inputs.mask is None:
            mask[..., : past + 1] = True
        else:
            mask[..., : past + 1].copy_(inputs.mask)

    def replay(self, what: str, index: int, rows: int, listens: bool) -> None:
        """Sends a layer's work to the device; it is recorded before, if it was not yet."""
        key = (what, index, rows, listens)
        if key not in self._recorded:
            work = self._work(*key)
            # Without cuDNN's attention, which plans each shape: no plan can be made while work is recorded.
            with torch.inference_mode(False), torch.no_grad(), safe_attention("cuda"):
                if (what, rows, listens) not in self._done:
                    self._done.add((what, rows, listens))
                    self._record.first(work)
                    return
                self._recorded[key] = self._record(work)
        self._recorded[key]()

    def _work(self, what: str, index: int, rows: int, listens: bool) -> Work:
        """What comes after the decision about a layer, up to what the next decision follows from."""
        if what == "start":
            return lambda: self._beside(0, listens)

        def layer() -> None:
            if what == "run":
                self._run(index, rows)
            else:
                self._skip(index)
            if index + 1 < len(self.blocks):
                self._beside(index + 1, listens)

        return layer

    def _beside(self, index: int, listens: bool) -> None:
        """Adapter and head of a layer, on what comes into it."""
        layer = self.skipper.layer(index)
        assert layer.adapter is not None
        h = self.h[:, 0]
        down = layer.adapter.down
        up = layer.adapter.up
        x = F.gelu(F.linear(h, down.weight.to(h.dtype), down.bias.to(h.dtype)))
        torch.addmm(up.bias.to(h.dtype), x, up.weight.to(h.dtype).t(), out=self.adapted[:, 0])
        if listens and layer.head is not None:
            out = layer.head.out
            read = F.gelu(self.adapted[:, 0].to(torch.float32))
            weight, bias = (x.to(torch.float32) for x in (out.weight, out.bias))
            torch.addmm(bias, read, weight.t(), out=self.logits.written[index])
            self.logits.copy(index)

    def _skip(self, index: int) -> None:
        self.slots.fill(index)
        self.h.add_(self.adapted)

    def _run(self, index: int, rows: int) -> None:
        """The block on all rows, or on the first ``rows`` of those noted for this layer."""
        block = self.blocks[index]
        slots = self.slots
        if rows == self.batch:
            out = block(self.h, self.inputs, slots)
        else:
            selection = Selection(self.rows[index][:rows])
            part = block(selection.take(self.h), self.inputs.take(selection), slots, selection)
            out = selection.put(self.h, part)
        torch.add(out, self.adapted, out=self.h)


class _RecordedRunner:
    """The layers of one pass as recorded work (a ``LayerRunner``), on the tensors that it was recorded with.

    What a block's recording holds besides the block is the adapter's addition, and adapter and head of the next layer:
    so they are on the device before the host knows whether that layer runs.

    Args:
        steps: The recordings.
        current: The pass.
    """

    late = True

    def __init__(self, steps: Steps, current: Pass) -> None:
        self.steps = steps
        self.current = current
        self.listens = current.policy.uses_heads
        self.ran = current.counter.ran
        self.price = current.price.cpu().numpy() if isinstance(current.price, Tensor) else current.price

    def adapt(self, index: int, h: Tensor) -> None:
        """Sends adapter and head of the first layer; the layer below has sent those of the others."""
        if not index:
            self.steps.replay("start", 0, 0, self.listens)

    def read(self, index: int, h: Tensor, adapted: None) -> int:
        """Marks what the head of ``index`` has said as sent; returns the index, where ``decide`` finds it."""
        self.steps.logits.mark(index)
        return index

    def decide(self, layer: int, said: int | None) -> None:
        """Waits for the controllers' logits (B,), and notes the policy's decision."""
        logits = None if said is None else _priced(self.steps.logits.arrived(said), self.price)
        alone = self.steps.batch == 1
        if not (alone and self.current.decide_alone(layer, None if logits is None else float(logits[0]))):
            self.current.decide(layer, None if logits is None else torch.from_numpy(logits), None)

    def run(self, index: int, h: Tensor, adapted: None) -> Tensor:
        """Sends the layer, and adapter and head of the next one."""
        steps = self.steps
        ran = self.current.count(index)
        self.ran[index] += ran
        if 0 < ran < steps.batch:
            steps.rows[index][:ran].copy_(self.current.rows(index), non_blocking=True)
        steps.replay("run" if ran else "skip", index, ran, self.listens)
        return h

    def add(self, h: Tensor, adapted: None) -> Tensor:
        """Nothing: it was added."""
        return h


class StepsByBatch:
    """``Steps`` for every number of rows that was met.

    Args:
        blocks, skipper: As of ``Steps``.
    """

    def __init__(self, blocks: list[FastBlock], skipper: Skipper | None) -> None:
        self.blocks = blocks
        self.skipper = skipper
        self._weights = [] if skipper is None else _addresses(blocks, skipper)
        self._made: dict[int, Steps] = {}
        self._thread = threading.current_thread()  # whose tokens lie at the recorded addresses

    def fits(self, blocks: list[FastBlock], skipper: Skipper) -> bool:
        """Whether what was recorded reads these layers' weights."""
        return self._weights == _addresses(blocks, skipper)

    def of(self, batch: int, tokens: int, policy: Policy) -> Steps | None:
        """The steps for B rows of up to ``tokens`` tokens.

        None for too many, for a policy that keeps states, and for a second thread while the first one lives.
        """
        mine = threading.current_thread()
        if mine is not self._thread:
            if self._thread.is_alive():
                return None
            self._thread = mine
        if self.skipper is None or batch > MOST or isinstance(policy, Sampled):
            return None
        steps = self._made.get(batch)
        if steps is None or steps.slots.capacity < tokens:
            with torch.inference_mode(False), torch.no_grad():
                steps = Steps(self.blocks, self.skipper, batch, max(LEAST, 1 << (tokens - 1).bit_length()))
            self._made[batch] = steps
        return steps

    def __deepcopy__(self, memo: dict[int, Any]) -> StepsByBatch:
        return StepsByBatch([], None)  # which fits no layers: a copied model records its own from its next prompt on


def _priced(read: np.ndarray, price: np.ndarray | float) -> np.ndarray:
    """Logits (B,) from what heads read, (B, R): a new array, whatever the next token overwrites."""
    if read.shape[1] == 1:
        return read[:, 0].copy()
    logits: np.ndarray = read[:, 0] + np.float32(price) * read[:, 1]
    return logits


def _addresses(blocks: list[FastBlock], skipper: Skipper) -> list[int]:
    """Where the weights lie."""
    tensors: list[Tensor] = [x for b in blocks for x in (b.qkv, b.out, b.gate, b.up, b.down, b.norms[0].weight)]
    tensors += [x for b in blocks for x in (b.norms[1].weight, b.qkv_bias, b.out_bias) if x is not None]
    return [x.data_ptr() for x in [*tensors, *skipper.parameters()]]
