"""A decoder layer that may be skipped: ``h_{l+1} = h_l + A_l(h_l) + m_l (Block_l(h_l) - h_l)`` (eq 6).

The backbone's own layer is wrapped in place by replacing the *instance's* ``forward``: module names, classes, hooks,
PEFT, gradient checkpointing and ``output_hidden_states`` see the same tree as before, and no modelling code is
copied. The block is called only on the tokens that run it.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from dlskip.errors import DlskipError
from dlskip.skip.adapter import Adapter, Head
from dlskip.skip.cache import KeysCaptured, SkipCache
from dlskip.skip.passes import Pass, State
from dlskip.skip.selection import Selection
from dlskip.skip.step import step


class SkipLayer(nn.Module):
    """Adapter, controller head and the gathering around one block, which may be skipped (eq 6).

    Examples:
        >>> from dlskip.skip import attach
        >>> layers = attach(backbone, bottleneck=8).each_layer()
        >>> [layer.index for layer in layers if layer.head is None]  # they decide about no next layer
        [4, 5]

    Args:
        block: The backbone's decoder layer; kept out of this module's own parameters.
        index: l, from 0.
        dim: D.
        bottleneck: r of the adapter; 0 = none, and no head either.
        head: Whether this layer decides about the next one (l+1 is free to be skipped).
        priced: Whether that head is conditioned on the price of a layer.
        state: What all layers of the model share.
    """

    def __init__(
        self, block: nn.Module, index: int, dim: int, bottleneck: int, head: bool, priced: bool, state: State
    ) -> None:
        super().__init__()
        self.index = index
        self.adapter = Adapter(dim, bottleneck) if bottleneck else None
        self.head = Head(dim, priced) if head and bottleneck else None
        self.state = state
        self.original = block.forward
        names = list(inspect.signature(block.forward).parameters)
        if "args" in names:  # a decorated forward: its real signature is the class's
            names = list(inspect.signature(type(block).forward).parameters)[1:]
        self._names = names
        self.cache_name = "layer_past" if "layer_past" in names else "past_key_values"
        # A tuple hides the block from nn.Module's registration (and is followed by deepcopy).
        self._block: tuple[Any] = (block,)
        self._block[0].forward = self.forward

    def restore(self) -> None:
        """Gives the block its own ``forward`` back."""
        self._block[0].forward = self.original

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's ``forward``, skipped where the current pass's policy says so.

        Takes and returns what the block does: hidden states (B, T, D), alone or first in a tuple.
        """
        current = self.state.current
        if current is None or not self.state.enabled:
            return self.original(*args, **kwargs)
        kwargs |= dict(zip(self._names, args, strict=False))
        h: Tensor = kwargs.pop("hidden_states")
        eager = _Eager(self, current, kwargs)
        out = step(eager, self.state, current, self.index, h)
        return out if eager.rest is None else (out, *eager.rest)


class _Eager:
    """One call of a layer through the backbone's own block (a ``LayerRunner``).

    Args:
        layer: The layer.
        current: The pass.
        kwargs: The block's other arguments.
    """

    late = False

    def __init__(self, layer: SkipLayer, current: Pass, kwargs: dict[str, Any]) -> None:
        self.layer = layer
        self.current = current
        self.kwargs = kwargs
        self.rest: tuple[Any, ...] | None = None  # what the block returns besides hidden states

    def adapt(self, index: int, h: Tensor) -> Tensor | None:
        """(B, T, D), or None without adapters."""
        return None if self.layer.adapter is None else self.layer.adapter(h)

    def read(self, index: int, h: Tensor, adapted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (N,) and the states (N, D) that they were read from."""
        adapter, head = self.layer.adapter, self.layer.head
        assert adapter is not None and head is not None
        state = self.current.at_deciders(h)
        seen = adapter(state) if adapted is None else self.current.at_deciders(adapted)
        return head(seen, self.current.price), state

    def decide(self, layer: int, said: tuple[Tensor, Tensor] | None) -> None:
        """As of ``LayerRunner``."""
        self.current.decide(layer, *((None, None) if said is None else said))

    def run(self, index: int, h: Tensor, adapted: Tensor | None) -> Tensor:
        """Computes the block on the tokens that run it."""
        state = self.layer.state
        current = self.current
        kwargs = self.kwargs
        some, selection = current.selection(index)
        cache = current.cache
        if cache is not None:
            kwargs[self.layer.cache_name] = cache
            if state.kv_fill == "project" and (selection is not None or not some):
                self._project(cache, h)
        if not some:
            if cache is not None:
                cache.fill(index)
            self.rest = () if state.tuple_output else None
            return h
        part = h if selection is None else selection.take(h)
        kwargs = kwargs if selection is None else _take_kwargs(kwargs, selection, h)
        state.counter.ran[index] += part.shape[0] * part.shape[1]
        result = self._compute(part, kwargs, cache, selection)
        if isinstance(result, tuple):
            result, rest = result[0], result[1:]
            self.rest = rest if selection is None else tuple(None for _ in rest)
        return result if selection is None else selection.put(h, result)

    def add(self, h: Tensor, adapted: Tensor | None) -> Tensor:
        """(B, T, D)."""
        return h if adapted is None else h + adapted

    def _compute(
        self, part: Tensor, kwargs: dict[str, Any], cache: SkipCache | None, selection: Selection | None
    ) -> Any:  # fmt: skip
        """What the block returns for the tokens (B', Tq, D) that run it."""
        if cache is None:
            return self.layer.original(part, **kwargs)
        before = cache.fresh
        with cache.selected(selection):
            result = self.layer.original(part, **kwargs)
        if cache.fresh is before and self.current.deciders is not None:
            raise DlskipError(
                f"layer {self.layer.index} left no keys for the tokens that skip", where="per-token masks",
                mend="switch gradient checkpointing off (it drops the cache), or use mask_unit: sample",
            )  # fmt: skip
        return result

    def _project(self, cache: SkipCache, h: Tensor) -> None:
        """`project` fill: this layer's own norm and K/V projections of h_l for the tokens that skip it."""
        index = self.layer.index
        skipped = self.current.skipped_tokens(index)
        part = h if skipped is None else skipped.take(h)
        kwargs = dict(self.kwargs) if skipped is None else _take_kwargs(self.kwargs, skipped, h)
        with cache.selected(skipped, capture=True):
            try:
                self.layer.original(part, **kwargs)
            except KeysCaptured:
                return
        raise DlskipError(f"layer {index} never updated its cache", where="kv_fill: project", mend="use kv_fill: copy")


def _take_kwargs(kwargs: dict[str, Any], selection: Selection, h: Tensor) -> dict[str, Any]:
    """Narrows a block's tensor arguments to the selected rows and tokens; ``h`` is (B, T, D)."""
    taken = dict(kwargs)
    mask = taken.get("attention_mask")
    if mask is None and selection.slots is not None:
        # Without padding Transformers passes no mask and relies on the causal shortcut, which a ragged subset breaks.
        mask = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).tril()[None, None]
    if mask is not None:
        if not isinstance(mask, Tensor) or (mask.dim() == 2 and selection.slots is not None):
            raise DlskipError(
                "this attention implementation cannot run ragged batches", mend="load it with sdpa or eager"
            )
        taken["attention_mask"] = selection.take_mask(mask)
    for name in ("position_ids", "position_embeddings"):
        value = taken.get(name)
        if isinstance(value, Tensor):
            taken[name] = selection.take_positions(value)
        elif isinstance(value, tuple):
            taken[name] = tuple(selection.take_positions(x) for x in value)
    alibi = taken.get("alibi")
    if isinstance(alibi, Tensor):
        taken["alibi"] = alibi[selection.rows]
    return taken
