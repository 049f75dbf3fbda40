"""The one KV rule: what a token that skips a layer leaves there for later tokens to attend to (docs/method.md §6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from dlskip.errors import DlskipError
from dlskip.skip.selection import Selection


class KeysCaptured(Exception):  # noqa: N818 - a signal, not an error
    """Raised inside a block's attention once its keys and values are known, so that nothing else is computed."""


class GrowingLayer(DynamicLayer):
    """A layer's keys and values in a buffer that doubles: a decoding step writes its token and copies nothing."""

    _buffers: tuple[Tensor, Tensor] | None = None
    _views: tuple[Tensor, Tensor] | None = None  # of the buffers: what `keys` and `values` were set to last

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends keys and values (B, H, T, d); returns all (B, H, S, d)."""
        if key_states.requires_grad or not self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        assert self.keys is not None and self.values is not None
        before, new = self.keys.shape[-2], key_states.shape[-2]
        if not self._holds(before + new):  # first step, full, or someone put other tensors here (beams, fewer rows)
            shape = (*key_states.shape[:2], max(64, 2 * (before + new)), key_states.shape[-1])
            self._buffers = key_states.new_empty(shape), value_states.new_empty((*shape[:-1], value_states.shape[-1]))
            if before:
                self._buffers[0][:, :, :before] = self.keys
                self._buffers[1][:, :, :before] = self.values
        assert self._buffers is not None
        keys, values = self._buffers
        keys[:, :, before : before + new] = key_states
        values[:, :, before : before + new] = value_states
        self._views = keys[:, :, : before + new], values[:, :, : before + new]
        self.keys, self.values = self._views
        return self._views

    def _holds(self, length: int) -> bool:
        """Whether keys and values begin the buffers, which have room for ``length`` tokens."""
        if self._buffers is None or self._buffers[0].shape[2] < length:
            return False
        if self._views is not None and self.keys is self._views[0] and self.values is self._views[1]:
            return True
        pairs: Any = zip((self.keys, self.values), self._buffers, strict=True)
        return all(x.data_ptr() == y.data_ptr() and x.stride() == y.stride() and len(x) == len(y) for x, y in pairs)


class SkipCache(DynamicCache):
    """A Transformers cache in which every layer holds keys and values of every token, computed there or copied.

    During one forward pass ``fresh`` holds the keys and values (B, H, T, d) of the pass's T new tokens as of the last
    layer each of them ran. A layer's attention calls ``update`` with those of the tokens that run; they replace the
    fresh ones, the rest keeps the values of the layer below (which may itself have been filled; layer 0 always runs).
    The rule is the same for prefill, decoding and teacher-forced training, on every architecture, because attention
    uses whatever ``update`` returns.

    Examples:
        >>> from dlskip.skip import skipper_of
        >>> cache = skipper_of(model).new_cache()
        >>> out = model(**inputs, past_key_values=cache)
        >>> cache.get_seq_length() == inputs["input_ids"].shape[1]
        True

    Args:
        config: The backbone's configuration, for its sliding-window layers.
        store: False keeps nothing between passes (training without a cache).
    """

    def __init__(self, config: PreTrainedConfig | None = None, *, store: bool = True) -> None:
        super().__init__(config=config)
        self._start(store)

    def _start(self, store: bool) -> None:
        self.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in self.layers]
        if self.layer_class_to_replicate is DynamicLayer:
            self.layer_class_to_replicate = GrowingLayer
        self.store = store
        self.fresh: tuple[Tensor, Tensor] | None = None
        self.selection: Selection | None = None
        self._capture = False

    @classmethod
    def adopted(cls, cache: Any) -> SkipCache:
        """Turns an empty ``DynamicCache`` into one of these in place: whoever made it sees it being filled.

        Raises:
            DlskipError: It is of another kind, holds something already, or moves its layers to the host.
        """
        refused = None
        if type(cache) is not DynamicCache:
            refused = f"a {type(cache).__name__} cannot hold keys and values of skipped layers"
        elif any(getattr(layer, "is_initialized", True) for layer in cache.layers):
            refused = "a DynamicCache that was filled without skipping cannot hold keys and values of skipped layers"
        elif cache.offloading:
            refused = "an offloaded cache cannot hold keys and values of skipped layers"
        if refused is not None:
            raise DlskipError(
                refused, where="past_key_values", mend="pass none, an empty DynamicCache, or skipper.new_cache()"
            )
        cache.__class__ = cls
        cache._start(store=True)
        adopted: SkipCache = cache
        return adopted

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes the keys and values (B', H, Tq, d) of the tokens that run; returns (B', H, S, d) to attend to."""
        fresh = self.merge(key_states, value_states, self.selection)
        if self._capture:
            raise KeysCaptured
        keys, values = super().update(*fresh, layer_idx, *args, **kwargs) if self.store else fresh
        if self.selection is None:
            return keys, values
        return keys[self.selection.rows], values[self.selection.rows]

    def put(
        self, keys: Tensor, values: Tensor, layer_idx: int, selection: Selection | None
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """``update`` for the tokens that ``selection`` names."""
        self.selection = selection
        try:
            return self.update(keys, values, layer_idx)
        finally:
            self.selection = None

    def fill(self, layer_idx: int) -> None:
        """Stores the fresh keys and values at a layer that no token ran."""
        if self.store and self.fresh is not None:
            super().update(*self.fresh, layer_idx)

    @contextmanager
    def selected(self, selection: Selection | None, *, capture: bool = False) -> Iterator[None]:
        """Says which tokens the next ``update`` is for; ``capture`` stops the block right after it."""
        self.selection = selection
        self._capture = capture
        try:
            yield
        finally:
            self.selection = None
            self._capture = False

    def merge(self, keys: Tensor, values: Tensor, selection: Selection | None) -> tuple[Tensor, Tensor]:
        """Replaces the fresh keys and values of the tokens that ``selection`` names (None = all); returns all."""
        if selection is not None and self.fresh is not None:
            keys = selection.put_heads(self.fresh[0], keys)
            values = selection.put_heads(self.fresh[1], values)
        self.fresh = (keys, values)
        return self.fresh
