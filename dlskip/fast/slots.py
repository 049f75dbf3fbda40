"""Keys and values at fixed addresses, which work recorded once can read and write at every step."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from dlskip.skip.cache import GrowingLayer, SkipCache
from dlskip.skip.selection import Selection


class Slots:
    """Room for the keys and values of B rows in every layer, and for those of the current token.

    One cache at a time lives here. Another one that moves in is copied here, and whoever lived here before takes its
    keys and values along: no ``generate()`` sees another's.

    Args:
        layers, batch, heads, capacity, head_dim: L, B, K, S, d.
        options: ``dtype`` and ``device`` of keys and values.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.capacity = capacity
        # Keys and values in one tensor: what a skipped layer does to its cache is a single write.
        self.fresh = torch.zeros(2, batch, heads, 1, head_dim, dtype=dtype, device=device)
        self.kept = [
            torch.zeros(2, batch, heads, capacity, head_dim, dtype=dtype, device=device) for _ in range(layers)
        ]
        self.position = torch.zeros(1, dtype=torch.long, device=device)  # of the current token
        self._tenant: weakref.ref[SkipCache] | None = None

    def put(
        self, keys: Tensor, values: Tensor, index: int, selection: Selection | None
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """As ``SkipCache.put``: (B', K, 1, d) of the rows that run; returns (B', K, S, d), for a mask to hide some."""
        for fresh, new in zip(self.fresh, (keys, values), strict=True):
            if selection is None:
                fresh.copy_(new)
            else:
                fresh.index_copy_(0, selection.rows, new)
        self.fill(index)
        kept = self.kept[index]
        if selection is None:
            return kept[0], kept[1]
        return kept[0][selection.rows], kept[1][selection.rows]

    def fill(self, index: int) -> None:
        """Stores the current token's keys and values at a layer."""
        self.kept[index].index_copy_(3, self.position, self.fresh)

    def take_in(self, cache: SkipCache) -> None:
        """Lets a cache's keys and values live here, if they do not all do so yet."""
        before = None if self._tenant is None else self._tenant()
        if before is cache and all(type(x) is SlotLayer and x.inside(self) for x in cache.layers):
            return
        if before is not None and before is not cache:
            for layer in before.layers:
                if isinstance(layer, SlotLayer):
                    layer.move_out(self)
        for index, layer in enumerate(cache.layers):
            cache.layers[index] = SlotLayer(self, index, layer)
        self._tenant = weakref.ref(cache)


class SlotLayer(GrowingLayer):
    """A cache's layer in ``Slots``: its views are made when someone asks for them.

    Args:
        slots: Where it moves in.
        index: l.
        layer: What it was so far; its keys and values are copied, unless they lie there already.
    """

    _own: tuple[Tensor | None, Tensor | None] | None  # what someone set instead of the views

    def __init__(self, slots: Slots, index: int, layer: Any) -> None:
        keys, values = layer.keys, layer.values
        self.slots = slots
        self.length = int(keys.shape[-2])
        kept = slots.kept[index]
        self._buffers = (kept[0], kept[1])
        self._views = None
        for buffer, given in zip(kept, (keys, values), strict=True):
            place = buffer[:, :, : self.length]
            if given.data_ptr() != place.data_ptr() or given.stride() != place.stride():
                place.copy_(given)
        self.dtype = keys.dtype
        self.device = keys.device
        self.is_initialized = True
        self._own = None

    def inside(self, slots: Slots) -> bool:
        """Whether its keys and values are the views of these slots."""
        return self.slots is slots and self._own is None

    def move_out(self, slots: Slots) -> None:
        """Takes its keys and values along, if they live in these slots."""
        if self.slots is slots:
            self._own = self.keys.clone(), self.values.clone()
            self._buffers = self._views = None

    @property
    def keys(self) -> Any:
        """(B, K, S, d)."""
        return self._side(0)

    @keys.setter
    def keys(self, keys: Tensor | None) -> None:
        self._own = keys, self._side(1)

    @property
    def values(self) -> Any:
        """(B, K, S, d)."""
        return self._side(1)

    @values.setter
    def values(self, values: Tensor | None) -> None:
        self._own = self._side(0), values

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As ``GrowingLayer.update``, which writes several tokens here too, and leaves for more room."""
        self._own = self.keys, self.values
        return super().update(*args, **kwargs)

    def get_seq_length(self) -> int:
        """S."""
        return self.length if self._own is None else super().get_seq_length()

    def crop(self, tokens_to_remove: int) -> None:
        """Forgets the last tokens, given as a negative number."""
        if self._own is None and -self.length < tokens_to_remove < 0:
            self.length += tokens_to_remove
        else:
            super().crop(tokens_to_remove)

    def _side(self, which: int) -> Tensor | None:
        if self._own is not None:
            return self._own[which]
        assert self._buffers is not None
        return self._buffers[which][:, :, : self.length]

    def __deepcopy__(self, memo: dict[int, Any]) -> GrowingLayer:
        """A copy lives by itself."""
        copied = GrowingLayer()
        if self.is_initialized:
            copied.lazy_initialization(self.keys, self.values)
            copied.keys, copied.values = self.keys.clone(), self.values.clone()
        return copied
