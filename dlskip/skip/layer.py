"""A decoder layer that may be skipped: ``h_{l+1} = h_l + A_l(h_l) + m_l (Block_l(h_l) - h_l)`` (eq 6).

The backbone's own layer is wrapped in place by replacing the *instance's* ``forward``: module names, classes, hooks,
PEFT, gradient checkpointing and ``output_hidden_states`` see the same tree as before, and no modelling code is
copied. The block is called only on the tokens that run it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dlskip.errors import DlskipError
from dlskip.skip.adapter import Adapter, Head
from dlskip.skip.cache import KeysCaptured, SkipCache
from dlskip.skip.narrow import narrowed
from dlskip.skip.passes import Pass, State
from dlskip.skip.probe import Interface
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
        interface: What the block takes and returns.
        bottleneck: r of the adapter; 0 = none, and no head either.
        head: Whether this layer decides about the next one (l+1 is free to be skipped).
        priced: Whether that head is conditioned on the price of a layer.
        state: What all layers of the model share.
    """

    def __init__(
        self, block: nn.Module, index: int, interface: Interface, bottleneck: int, head: bool, priced: bool,
        state: State,
    ) -> None:  # fmt: skip
        super().__init__()
        self.index = index
        self.adapter = Adapter(interface.dim, bottleneck) if bottleneck else None
        self.head = Head(interface.dim, priced) if head and bottleneck else None
        self.state = state
        self.interface = interface
        self.original = block.forward
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
        if current is None:
            return self.original(*args, **kwargs)
        kwargs |= dict(zip(self.interface.names, args, strict=False))
        h: Tensor = kwargs.pop(self.interface.hidden)
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
        current = self.current
        kwargs = self.kwargs
        some, selection = current.selection(index)
        cache = current.cache
        if cache is not None:
            kwargs[self.layer.interface.cache] = cache
            if self.layer.state.kv_fill == "project" and (selection is not None or not some):
                self._project(cache, h)
        if not some:
            if cache is not None:
                cache.fill(index)
            returns = self.layer.interface.returns
            self.rest = None if returns is None else (None,) * (returns - 1)
            return h
        part = h if selection is None else selection.take(h)
        kwargs = kwargs if selection is None else self._narrowed(selection, h)
        current.counter.ran[index] += part.shape[0] * part.shape[1]
        result = self._compute(part, kwargs, cache, selection)
        if isinstance(result, tuple):
            result, rest = result[0], result[1:]
            self.rest = rest if selection is None else tuple(spread(x, selection, h) for x in rest)
        return result if selection is None else selection.put(h, result)

    def _narrowed(self, selection: Selection, h: Tensor) -> dict[str, Any]:
        """The block's arguments for the selected rows and tokens of ``h`` (B, T, D)."""
        interface = self.layer.interface
        if selection.slots is not None and interface.window is not None:
            raise DlskipError(
                f"layer {self.layer.index} keeps a window in {interface.window}, which tokens that skip would shift",
                where="per-token masks", mend="one token at a time after a prompt, masks of whole rows in training",
            )  # fmt: skip
        cache = self.current.cache
        past = cache.get_seq_length() if cache is not None and cache.store else 0
        past -= h.shape[1] if past and self.layer.index else 0  # the first layer has stored this pass's tokens already
        shape = (h.shape[0], h.shape[1])
        return narrowed(self.kwargs, interface.roles, selection, shape, past)

    def add(self, h: Tensor, adapted: Tensor | None) -> Tensor:
        """(B, T, D)."""
        return h if adapted is None else h + adapted

    def _compute(
        self, part: Tensor, kwargs: dict[str, Any], cache: SkipCache | None, selection: Selection | None
    ) -> Any:  # fmt: skip
        """What the block returns for the tokens (B', Tq, D) that run it."""
        if cache is None:
            return self._original(part, kwargs, selection)
        before = cache.fresh
        with cache.selected(selection):
            result = self._original(part, kwargs, selection)
        if cache.fresh is before and self.current.deciders is not None:
            raise DlskipError(
                f"layer {self.layer.index} left no keys for the tokens that skip", where="per-token masks",
                mend="switch gradient checkpointing off (it drops the cache), or use mask_unit: sample",
            )  # fmt: skip
        return result

    def _original(self, part: Tensor, kwargs: dict[str, Any], selection: Selection | None) -> Any:
        try:
            return self.layer.original(part, **kwargs)
        except ValueError as error:
            if selection is None or "adapter_names" not in str(error):
                raise
            raise DlskipError(
                "rows with adapters of their own cannot skip on their own", where="adapter_names",
                mend="batch_policy: majority, any or all; or one adapter at a time",
            ) from error  # fmt: skip

    def _project(self, cache: SkipCache, h: Tensor) -> None:
        """`project` fill: this layer's own norm and K/V projections of h_l for the tokens that skip it."""
        index = self.layer.index
        skipped = self.current.skipped_tokens(index)
        part = h if skipped is None else skipped.take(h)
        kwargs = dict(self.kwargs) if skipped is None else self._narrowed(skipped, h)
        with cache.selected(skipped, capture=True):
            try:
                self.layer.original(part, **kwargs)
            except KeysCaptured:
                return
        raise DlskipError(f"layer {index} never updated its cache", where="kv_fill: project", mend="use kv_fill: copy")


def spread(x: Any, selection: Selection, h: Tensor) -> Tensor | None:
    """Attention weights (B', H, Tq, S) of what ran as those of all of ``h`` (B, T, D), zero where nothing ran.

    Examples:
        >>> import torch
        >>> weights, h = torch.ones(1, 1, 3, 3), torch.zeros(2, 3, 8)  # of two rows the second ran
        >>> spread(weights, Selection(torch.tensor([1])), h).sum(dim=(1, 2, 3))
        tensor([0., 9.])
    """
    if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[0] != len(selection.rows):
        return None
    return selection.put_heads(x.new_zeros(h.shape[0], x.shape[1], h.shape[1], x.shape[3]), x)
