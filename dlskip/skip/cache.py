"""The one KV rule: what a token that skips a layer leaves there for later tokens to attend to (method §6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig

from dlskip.skip.selection import Selection


class KeysCaptured(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside a block's attention once its keys and values are known, so that nothing else is computed."""


class SkipCache(DynamicCache):
    """A Transformers cache in which every layer holds keys and values of every token, whoever computed them.

    During one forward pass ``fresh`` holds the keys and values (B, H, T, d) of the pass's T new tokens as of the last
    layer each of them ran. A layer's attention calls ``update`` with those of the tokens that run; they replace the
    fresh ones, the rest keeps the values of the layer below (which may itself have been filled; layer 0 always runs).
    The rule is the same for prefill, decoding and teacher-forced training, on every architecture, because attention
    uses whatever ``update`` returns.

    Args:
        config: The backbone's configuration, for its sliding-window layers.
        store: False keeps nothing between passes (training without a cache).
    """

    def __init__(self, config: PreTrainedConfig | None = None, *, store: bool = True) -> None:
        super().__init__(config=config)
        self.store = store
        self.fresh: tuple[Tensor, Tensor] | None = None
        self.selection: Selection | None = None
        self._capture = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes the keys and values (B', H, Tq, d) of the tokens that run; returns (B', H, S, d) to attend to."""
        fresh = self._merge(key_states, value_states)
        if self._capture:
            raise KeysCaptured
        keys, values = super().update(*fresh, layer_idx, *args, **kwargs) if self.store else fresh
        if self.selection is None:
            return keys, values
        return keys[self.selection.rows], values[self.selection.rows]

    def fill(self, layer_idx: int) -> None:
        """Stores the fresh keys and values at a layer that no token ran."""
        if self.store and self.fresh is not None:
            super().update(*self.fresh, layer_idx)

    @contextmanager
    def selected(self, selection: Selection | None, *, capture: bool = False) -> Iterator[None]:
        """Says which tokens the next ``update`` speaks for; ``capture`` stops the block right after it."""
        self.selection, self._capture = selection, capture
        try:
            yield
        finally:
            self.selection, self._capture = None, False

    def _merge(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.selection is not None and self.fresh is not None:
            keys = self.selection.put_heads(self.fresh[0], keys)
            values = self.selection.put_heads(self.fresh[1], values)
        self.fresh = (keys, values)
        return self.fresh
