"""Narrowing what a block is given to the rows and tokens that run it, argument by argument.

Which dimension of an argument counts what is found out when skipping is attached (``dlskip.skip.probe``); an argument
of which that is not known for certain is refused, since a wrong row would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dlskip.errors import DlskipError
from dlskip.skip.selection import Selection

_MASK = "attention_mask"


@dataclass(frozen=True)
class Roles:
    """What the dimensions of a tensor count, each at most once.

    Args:
        dims: How many there are.
        rows: The one that counts the B rows; None = every row shares the tensor.
        each: How many entries of it a row has: the heads, where a tensor is laid out (B * H, ...).
        tokens: The one that counts the pass's T new tokens; None = the tensor is the same for all of them.
    """

    dims: int
    rows: int | None = None
    each: int = 1
    tokens: int | None = None


# Layouts that Transformers gives every attention, seen by the probe or not: (B, 1 or H, T, S) and (B, S).
_MASKS = {4: Roles(4, rows=0, tokens=2), 2: Roles(2, rows=0)}


def tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an argument, alone or in tuples, lists and dictionaries, by names that say where they stand."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from tensors(f"{name}[{key}]", part)
    elif isinstance(value, (tuple, list)):
        for place, part in enumerate(value):
            yield from tensors(f"{name}[{place}]", part)


def narrowed(
    arguments: Mapping[str, Any], known: Mapping[str, Roles], selection: Selection, shape: tuple[int, int], past: int
) -> dict[str, Any]:
    """A block's arguments for the selected rows and tokens of (B, T).

    Args:
        arguments: Those besides hidden states, by name.
        known: What their tensors' dimensions count, by the names of ``tensors``.
        selection: Rows, and tokens of each.
        shape: (B, T).
        past: Tokens that were cached before the pass.

    Raises:
        DlskipError: Of a tensor it is not known for certain which part belongs to the selection.
    """
    taken = {name: _narrow(name, value, known, selection, shape) for name, value in arguments.items()}
    if selection.slots is not None and _MASK in arguments and not isinstance(arguments[_MASK], Mapping):
        mask = arguments[_MASK]
        # Without padding Transformers passes no mask and relies on the causal shortcut, which a ragged subset breaks.
        if mask is None and not past:
            device = selection.rows.device
            mask = torch.ones(shape[1], shape[1], dtype=torch.bool, device=device).tril()[None, None]
        if not isinstance(mask, Tensor) or mask.dim() != 4:
            raise DlskipError(
                "this attention implementation cannot run ragged batches", where="attention_mask",
                mend="load it with sdpa or eager",
            )  # fmt: skip
        taken[_MASK] = _part(_MASK, mask, _MASKS[4], selection, shape)
    return taken


def _narrow(name: str, value: Any, known: Mapping[str, Roles], selection: Selection, shape: tuple[int, int]) -> Any:
    if isinstance(value, Tensor):
        roles = known.get(name)
        if name == _MASK:
            roles = _MASKS.get(value.dim(), roles)
            if value.dim() == 2 and selection.slots is not None:
                return value  # refused above, with a reason of its own
        return _part(name, value, roles, selection, shape)
    if isinstance(value, Mapping):
        return {key: _narrow(f"{name}[{key}]", part, known, selection, shape) for key, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_narrow(f"{name}[{i}]", part, known, selection, shape) for i, part in enumerate(value))
    return value


def _part(name: str, x: Tensor, roles: Roles | None, selection: Selection, shape: tuple[int, int]) -> Tensor:
    """The selected part of one tensor."""
    if roles is None or roles.dims != x.dim():
        raise _uncertain(name, x, shape)
    rows, each = roles.rows, roles.each
    if rows is not None and x.shape[rows] == each:  # all rows share it after all
        rows = None
    elif rows is not None and x.shape[rows] != shape[0] * each:
        raise _uncertain(name, x, shape)
    if roles.tokens is not None and x.shape[roles.tokens] == 1:  # as do all tokens
        roles = replace(roles, tokens=None)
    if selection.slots is None or roles.tokens is None:
        if rows is None:
            return x
        if each == 1:
            return x.index_select(rows, selection.rows)
        apart: Tensor = x.unflatten(rows, (shape[0], each)).index_select(rows, selection.rows)
        whole: Tensor = apart.flatten(rows, rows + 1)
        return whole
    if x.shape[roles.tokens] != shape[1] or each != 1:
        raise _uncertain(name, x, shape)
    if rows is None:
        shared = next((d for d in range(roles.tokens) if x.shape[d] == 1), None)
        if shared is None:
            raise _uncertain(name, x, shape)
        x = x.expand([shape[0] if d == shared else size for d, size in enumerate(x.shape)])
        rows = shared
    moved = x.movedim((rows, roles.tokens), (0, 1))
    return selection.take(moved).movedim((0, 1), (rows, roles.tokens))


def _uncertain(name: str, x: Tensor, shape: tuple[int, int]) -> DlskipError:
    return DlskipError(
        f"of {shape[0]} rows some skip a layer, and it is not known which part of shape {tuple(x.shape)} is theirs",
        where=name, mend="one row at a time, or batch_policy: majority, any or all",
    )  # fmt: skip
