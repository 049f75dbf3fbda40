"""A decoder layer that may be skipped: ``h_{l+1} = h_l + A_l(h_l) + m_l (Block_l(h_l) - h_l)`` (eqs 5-6).

The backbone's own layer is wrapped in place by replacing the *instance's* ``forward``: module names, classes, hooks,
PEFT, gradient checkpointing and ``output_hidden_states`` see the same tree as before, and no modelling code is
copied. The block is called only on the tokens that run it.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dlskip.errors import DlskipError
from dlskip.skip.adapter import Adapter, Head
from dlskip.skip.cache import KeysCaptured
from dlskip.skip.selection import Selection

if TYPE_CHECKING:
    from dlskip.skip.model import Skipper
    from dlskip.skip.passes import Pass


class SkipLayer(nn.Module):
    """Adapter, controller head and the gathering around one block.

    Args:
        block: The backbone's decoder layer; kept out of this module's own parameters.
        index: l, from 0.
        dim: D.
        bottleneck: r of the adapter; 0 = none, and no head either.
        head: Whether this layer decides about the next one (l+1 is free to be skipped).
        priced: Whether that head is told the price of a layer.
        skipper: The model-wide state.
    """

    def __init__(
        self, block: nn.Module, index: int, dim: int, bottleneck: int, head: bool, priced: bool, skipper: Skipper
    ) -> None:
        super().__init__()
        self.index = index
        self.adapter = Adapter(dim, bottleneck) if bottleneck else None
        self.head = Head(dim, priced) if head and bottleneck else None
        # Tuples hide the two references from nn.Module's registration (and are followed by deepcopy).
        self._hidden: tuple[nn.Module, Skipper] = (block, skipper)
        self._original = block.forward
        names = list(inspect.signature(block.forward).parameters)
        if "args" in names:  # a decorated forward: its real signature is the class's
            names = list(inspect.signature(type(block).forward).parameters)[1:]
        self._names = names
        self._cache_name = "layer_past" if "layer_past" in names else "past_key_values"
        block.forward = self.forward  # type: ignore[method-assign]

    def restore(self) -> None:
        """Gives the block its own ``forward`` back."""
        self._hidden[0].forward = self._original  # type: ignore[method-assign]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's ``forward``, skipped where the current pass's policy says so.

        Takes and returns what the block does: hidden states (B, T, D), alone or first in a tuple.
        """
        skipper = self._hidden[1]
        current = skipper.current
        if current is None or not skipper.enabled:
            return self._original(*args, **kwargs)
        kwargs |= dict(zip(self._names, args, strict=False))
        h: Tensor = kwargs.pop("hidden_states")
        policy, following = current.policy, self.index + 1
        decides = current.is_free(following)
        adapted = None if self.adapter is None else self.adapter(h)
        state = logit = None
        if decides and skipper.reads == "input":
            state, logit = self._control(current, h, adapted)
            if not policy.uses_similarity:  # known before this layer has run
                current.note(following, policy.decide(following, logit, state))
        out, rest = self._run(current, h, kwargs)
        out = out if adapted is None else out + adapted
        if decides and skipper.reads == "output":
            state, logit = self._control(current, out, None)
        if policy.uses_similarity:
            ran = current.runs[self.index]
            policy.observe(self.index, current.at_deciders(h), current.at_deciders(out), ran)
        if decides and (policy.uses_similarity or skipper.reads == "output"):
            current.note(following, policy.decide(following, logit, state))
        return out if rest is None else (out, *rest)

    def _control(self, current: Pass, h: Tensor, adapted: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the controller reads, (N, D), and its logits, (N,); None if the policy does not ask."""
        if not current.policy.uses_heads:
            return None, None
        assert self.head is not None and self.adapter is not None
        state = current.at_deciders(h)
        read = self.adapter(state) if adapted is None else current.at_deciders(adapted)
        return state, self.head(read, current.price)

    def _run(self, current: Pass, h: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...] | None]:
        """Computes the block on the tokens that run it; the others keep their hidden state."""
        skipper = self._hidden[1]
        some, selection = current.selection(self.index)
        cache = current.cache
        if cache is not None:
            kwargs[self._cache_name] = cache
            if skipper.kv_fill == "project" and (selection is not None or not some):
                self._project(current, h, dict(kwargs))
        skipper.counter.decided[self.index] += current.decided_tokens(self.index)
        if not some:
            if cache is not None:
                cache.fill(self.index)
            return h, (() if skipper.tuple_output else None)
        part = h if selection is None else selection.take(h)
        kwargs = kwargs if selection is None else _take_kwargs(kwargs, selection, h)
        skipper.counter.ran[self.index] += part.shape[0] * part.shape[1]
        if cache is None:
            result = self._original(part, **kwargs)
        else:
            before = cache.fresh
            with cache.selected(selection):
                result = self._original(part, **kwargs)
            if cache.fresh is before and current.deciders is not None:
                raise DlskipError(
                    f"layer {self.index} left no keys for the tokens that skip", where="per-token masks",
                    mend="switch gradient checkpointing off (it drops the cache), or use mask_unit: sample",
                )  # fmt: skip
        rest = None
        if isinstance(result, tuple):
            result, rest = result[0], result[1:]
            rest = rest if selection is None else tuple(None for _ in rest)
        return (result if selection is None else selection.put(h, result)), rest

    def _project(self, current: Pass, h: Tensor, kwargs: dict[str, Any]) -> None:
        """`project` fill: this layer's own norm and K/V projections of h_l for the tokens that skip it."""
        assert current.cache is not None
        skipped = current.skipped_tokens(self.index)
        part = h if skipped is None else skipped.take(h)
        kwargs = kwargs if skipped is None else _take_kwargs(kwargs, skipped, h)
        with current.cache.selected(skipped, capture=True):
            try:
                self._original(part, **kwargs)
            except KeysCaptured:
                return
        raise DlskipError(
            f"layer {self.index} never updated its cache", where="kv_fill: project", mend="use kv_fill: copy"
        )


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
