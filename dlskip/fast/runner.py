"""The loop over layers as plain tensor operations, for any number of rows and tokens."""

from __future__ import annotations

from torch import Tensor

from dlskip.fast.adapter import FastAdapter
from dlskip.fast.block import FastBlock, LayerInputs
from dlskip.skip.passes import Pass, State
from dlskip.skip.step import step


def run_blocks(
    blocks: list[FastBlock], adapters: list[FastAdapter], state: State, h: Tensor, inputs: LayerInputs, current: Pass
) -> Tensor:
    """Maps hidden states (B, T, D) to the last layer's output, (B, T, D); arguments: see ``BlockRunner``."""
    runner = BlockRunner(blocks, adapters, state, current, inputs)
    for index in range(len(blocks)):
        h = step(runner, state, current, index, h)
    return h


class BlockRunner:
    """The layers of one pass as ``FastBlock``s (a ``LayerRunner``).

    Args:
        blocks: The layers.
        adapters: Their adapters and heads.
        state: Of the model.
        current: The pass.
        inputs: What its layers share.
    """

    late = False

    def __init__(
        self, blocks: list[FastBlock], adapters: list[FastAdapter], state: State, current: Pass, inputs: LayerInputs
    ) -> None:  # fmt: skip
        self.blocks = blocks
        self.adapters = adapters
        self.state = state
        self.current = current
        self.inputs = inputs

    def adapt(self, index: int, h: Tensor) -> Tensor | None:
        """(B, T, D), or None without adapters."""
        return self.adapters[index](h, self.inputs.few)

    def read(self, index: int, h: Tensor, adapted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (N,) and the states (N, D) that they were read from."""
        adapter = self.adapters[index]
        adapted = adapter(h, self.inputs.few) if adapted is None else adapted
        assert adapter.head is not None and adapted is not None
        logit = adapter.head(self.current.at_deciders(adapted), self.current.price)
        return logit, self.current.at_deciders(h)

    def decide(self, layer: int, said: tuple[Tensor, Tensor] | None) -> None:
        """As of ``LayerRunner``; a single token's logit is compared as a number."""
        logit, state = (None, None) if said is None else said
        number = None if logit is None or not self.inputs.single else logit.item()
        if not (self.inputs.single and self.current.decide_alone(layer, number)):
            self.current.decide(layer, logit, state)

    def run(self, index: int, h: Tensor, adapted: Tensor | None) -> Tensor:
        """The block on the rows that run it."""
        block = self.blocks[index]
        current = self.current
        inputs = self.inputs
        cache = self.current.cache
        some, selection = current.selection(index)
        if cache is not None and self.state.kv_fill == "project" and (selection is not None or not some):
            skipped = current.skipped_tokens(index)
            block.fill(h if skipped is None else skipped.take(h), inputs.take(skipped), cache, skipped)
        if not some:
            if cache is not None:
                cache.fill(index)
            return h
        part = h if selection is None else selection.take(h)
        current.counter.ran[index] += part.shape[0] * part.shape[1]
        out = block(part, inputs.take(selection), cache, selection)
        return out if selection is None else selection.put(h, out)

    def add(self, h: Tensor, adapted: Tensor | None) -> Tensor:
        """(B, T, D)."""
        return h if adapted is None else h + adapted.to(h.dtype)
