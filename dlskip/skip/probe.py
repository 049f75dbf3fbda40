"""What a backbone's blocks take and return, found out by running a few tokens through them when skipping is attached.

No family is known by name. The stack runs three times, with other numbers of rows, tokens and cached tokens: what
changes with which number tells what every dimension of an argument counts. A block whose part cannot be left out is
refused with the reason: one that keeps a state instead of keys, or none; one whose keys are another layer's, or of
another shape; one that hands more than hidden states to the next.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from dlskip.errors import DlskipError
from dlskip.skip.narrow import Roles, tensors

MEND = "docs/use.md says which kinds of layers can be skipped"
_FIRST, _FURTHER, _WIDER = (2, 5), (2, 3), (3, 5)  # rows and new tokens of the three runs; the second goes on from 5


@dataclass(frozen=True)
class Interface:
    """What one block takes and returns.

    Args:
        names: Of its positional arguments.
        hidden: Of the argument with hidden states (B, T, D).
        dim: D.
        cache: Of the argument with the cache.
        returns: Length of the tuple that it returns, hidden states first; None = hidden states alone.
        roles: What the dimensions of its other tensors count, by the names of ``dlskip.skip.narrow.tensors``.
        window: Name of a mask of its own that is more than causal: it takes the tokens of a pass for consecutive ones.
    """

    names: tuple[str, ...]
    hidden: str
    dim: int
    cache: str
    returns: int | None
    roles: dict[str, Roles]
    window: str | None = None


@dataclass
class _Call:
    """One block in one run."""

    arguments: dict[str, Any]
    output: Any = None
    updates: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)  # layer, keys, values


class _Watched(DynamicCache):
    """Notes which block leaves which keys and values where."""

    calls: list[_Call]
    now: int | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.now is not None:
            self.calls[self.now].updates.append((layer_idx, tuple(key_states.shape), tuple(value_states.shape)))
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def probe(stack: Any, blocks: nn.ModuleList, family: str) -> list[Interface]:
    """The blocks' interfaces, in order; the model is left as it was.

    Examples:
        >>> from dlskip.skip.stack import find_layers
        >>> owner, _, blocks = find_layers(backbone)
        >>> probe(owner, blocks, "a tiny Llama")[0].hidden
        'hidden_states'

    Args:
        stack: Embeds tokens and runs the blocks.
        blocks: Its decoder layers.
        family: Where it comes from, for errors.

    Raises:
        DlskipError: Their layers cannot be skipped one by one; the message says why.
    """
    if len({p.device for p in blocks.parameters()}) > 1:
        mend = "put it on one: device_map={'': 0}"
        raise DlskipError("its layers lie on several devices", where=family, mend=mend)
    names = [tuple(_names(block)) for block in blocks]
    with _quietly(stack):
        try:
            cache = _Watched(config=stack.config)
            first = _run(stack, blocks, names, cache, *_FIRST)
            further = _run(stack, blocks, names, cache, *_FURTHER)
            wider = _run(stack, blocks, names, _Watched(config=stack.config), *_WIDER)
        except DlskipError as error:
            raise DlskipError(error.message, where=family, mend=MEND) from error
        except Exception as error:  # of a family's own code, of any kind
            said = str(error).partition("\n")[0] or type(error).__name__
            raise DlskipError(f"its layers do not run as decoder layers do: {said}", where=family, mend=MEND) from error
    found = []
    for index, block in enumerate(blocks):
        runs = (first[index], further[index], wider[index])
        try:
            one = _interface(index, runs, names[index], first[index + 1 : index + 2])
            found.append(replace(one, window=_window(block)))
            _same_keys(cache, index, first)
        except DlskipError as error:
            where = f"{family}, layer {index} ({type(block).__name__})"
            raise DlskipError(error.message, where=where, mend=MEND) from error
    return found


def _window(block: nn.Module) -> str | None:
    """The name of a square mask among a block's buffers that hides more than what comes later, if it has one."""
    for name, x in block.named_buffers():
        square = x.dim() > 1 and x.shape[-1] == x.shape[-2] > 1 and x.dtype in (torch.bool, torch.uint8)
        if square and not torch.equal(x.bool(), torch.ones_like(x).bool().tril()):
            return name
    return None


def _names(block: nn.Module) -> list[str]:
    names = list(inspect.signature(block.forward).parameters)
    if "args" in names:  # a decorated forward: its real signature is the class's
        names = list(inspect.signature(type(block).forward).parameters)[1:]
    return names


@contextmanager
def _quietly(stack: nn.Module) -> Iterator[None]:
    """In evaluation mode, without gradients; nothing is drawn from the global random state."""
    training = [module for module in stack.modules() if module.training]
    stack.eval()
    devices = {p.device for p in stack.parameters() if p.device.type == "cuda"}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for module in training:
            module.training = True


def _run(
    stack: nn.Module, blocks: nn.ModuleList, names: list[tuple[str, ...]], cache: _Watched, rows: int, tokens: int
) -> list[_Call]:
    """Runs (rows, tokens) ids, the first row padded on the left, and notes what each block was given."""
    device = next(stack.parameters()).device
    past = cache.get_seq_length()
    mask = torch.ones(rows, past + tokens, dtype=torch.long, device=device)
    mask[0, 0] = 0
    given: dict[str, Any] = {"input_ids": torch.ones(rows, tokens, dtype=torch.long, device=device)}
    given |= {"attention_mask": mask, "past_key_values": cache, "use_cache": True}
    if "position_ids" in inspect.signature(stack.forward).parameters:
        given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens:]
    cache.calls = []

    def before(index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if len(cache.calls) != index:
                raise DlskipError(f"layer {index} does not run once in a pass, after layer {index - 1}")
            cache.now = index
            cache.calls.append(_Call(dict(zip(names[index], args, strict=False)) | kwargs))

        return hook

    def after(_: nn.Module, __: Any, output: Any) -> None:
        cache.calls[-1].output = output
        cache.now = None

    with ExitStack() as hooks:
        for index, block in enumerate(blocks):
            for handle in (
                block.register_forward_pre_hook(before(index), with_kwargs=True),
                block.register_forward_hook(after),
            ):
                hooks.callback(handle.remove)
        stack(**given)
    if len(cache.calls) != len(blocks):
        raise DlskipError(f"layer {len(cache.calls)} does not run in every pass")
    return cache.calls


def _interface(
    index: int, runs: tuple[_Call, _Call, _Call], names: tuple[str, ...], following: list[_Call]
) -> Interface:
    """One block, from its three runs.

    Raises:
        DlskipError: It cannot be skipped.
    """
    call = runs[0]
    hidden = next((n for n in ("hidden_states", *names[:1]) if isinstance(call.arguments.get(n), Tensor)), None)
    if hidden is None or call.arguments[hidden].dim() != 3 or tuple(call.arguments[hidden].shape[:2]) != _FIRST:
        raise DlskipError("it takes no hidden states (rows, tokens, features)")
    cache = next((n for n, value in call.arguments.items() if isinstance(value, _Watched)), None)
    if cache is None or not call.updates:
        raise DlskipError("it keeps no keys and values of its own: no attention, or another layer's")
    if len(call.updates) > 1 or call.updates[0][0] != index:
        raise DlskipError("it leaves keys and values elsewhere in the cache than at its own place")
    h = call.arguments[hidden]
    out = call.output[0] if isinstance(call.output, tuple) and call.output else call.output
    if not isinstance(out, Tensor) or out.shape != h.shape:
        raise DlskipError("it does not return hidden states of the shape that it takes")
    if isinstance(call.output, tuple):
        more = [id(x) for _, x in tensors("", call.output[1:])]
        taken = [
            name for one in following for n, v in one.arguments.items() for name, x in tensors(n, v) if id(x) in more
        ]
        if taken:
            raise DlskipError(f"it hands {taken[0]} to the next layer, besides hidden states")
    roles = {}
    others = [{n: v for n, v in run.arguments.items() if n != hidden} for run in runs]
    shapes = [{p: tuple(x.shape) for n, v in other.items() for p, x in tensors(n, v)} for other in others]
    for path, shape in shapes[0].items():
        found = _roles(shape, shapes[1].get(path), shapes[2].get(path))
        if found is None:
            raise DlskipError(f"it is not clear what the dimensions of {path}, {list(shape)}, count")
        roles[path] = found
    returns = len(call.output) if isinstance(call.output, tuple) else None
    return Interface(names, hidden, int(h.shape[-1]), cache, returns, roles)


def _roles(first: tuple[int, ...], further: tuple[int, ...] | None, wider: tuple[int, ...] | None) -> Roles | None:
    """What the dimensions of a tensor count, from its shapes in the three runs; None = not clear.

    Lengths that change in no other way are those of keys, all of which every selection sees.
    """
    if further is None or wider is None or not len(first) == len(further) == len(wider):
        return None
    rows = tokens = None
    each = 1
    for d, (a, b, c) in enumerate(zip(first, further, wider, strict=True)):
        if a != c:  # (a, b, c) = k (2, 2, 3)
            if rows is not None or a != b or a * _WIDER[0] != c * _FIRST[0]:
                return None
            rows, each = d, a // _FIRST[0]
        elif (a, b) == (_FIRST[1], _FURTHER[1]):
            if tokens is not None:
                return None
            tokens = d
        elif a != b and a < _FIRST[1]:
            return None
    return Roles(len(first), rows, each, tokens)


def _same_keys(cache: _Watched, index: int, calls: list[_Call]) -> None:
    """Whether a layer's keys and values may stand for another's.

    Raises:
        DlskipError: They may not.
    """
    kept = cache.layers[index] if index < len(cache.layers) else None
    if not isinstance(kept, DynamicLayer) or isinstance(kept, LinearAttentionCacheLayerMixin):
        raise DlskipError(f"it keeps a state ({type(kept).__name__}), not keys and values of every token")
    sizes = [tuple((s[0], s[1], *s[3:]) for s in call.updates[0][1:]) for call in (calls[0], calls[index])]
    _, keys, values = calls[index].updates[0]
    if len(keys) != 4 or len(values) != 4 or keys[2] != _FIRST[1] or keys[0] != _FIRST[0]:
        raise DlskipError(f"its keys have the shape {list(keys)}, not (rows, heads, tokens, features)")
    if sizes[0] != sizes[1]:
        raise DlskipError(f"its keys have the shape {list(keys)}, those of layer 0 {list(calls[0].updates[0][1])}")
