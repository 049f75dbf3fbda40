"""Several examples in one row, none of which attends to another: the mask for it, and whether a model can do it.

The mask is Transformers' own for packed rows: position ids that start anew begin another example. It is made here and
handed over, because some families (OPT, Falcon) do not look for packed rows themselves. Padding is an example by
itself, so no token attends to nothing (``dlskip.skip.attention``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_masks_for_generate

from dlskip.errors import DlskipError
from dlskip.skip.attention import MASKED
from dlskip.skip.stack import find_stack

_PROBE = 6  # tokens of each example that ``check_packing`` packs


def packed_rows(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Which examples share a row: as few rows as fit, filled evenly, since the longest decides how much is padded.

    Examples:
        >>> packed_rows([30, 10, 20, 20], most=40)
        [[0, 1], [2, 3]]

    Args:
        lengths: Tokens of each example.
        most: Tokens of a row, at most; no example is longer.

    Returns:
        The indices of each row's examples, rising.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for count in range(-(-sum(lengths) // most), len(lengths)):
        rows: list[list[int]] = [[] for _ in range(count)]
        fill = [0] * count
        for i in longest_first:
            emptiest = fill.index(min(fill))
            rows[emptiest].append(i)
            fill[emptiest] += lengths[i]
        if max(fill) <= most:
            return sorted(sorted(row) for row in rows)
    return [[i] for i in range(len(lengths))]


def packed_mask(stack: Any, position_ids: Tensor) -> Any:
    """What a stack takes as ``attention_mask`` where rows have several examples.

    Examples:
        >>> positions = torch.tensor([[0, 1, 0]])  # two tokens of one example, one of another
        >>> packed_mask(find_stack(backbone), positions)[0, 0]
        tensor([[ True, False, False],
                [ True,  True, False],
                [False, False,  True]])

    Args:
        stack: As of ``find_stack``.
        position_ids: (R, T) long, from 0 in each example; 0 for padding.

    Returns:
        (R, 1, T, T), bool or, for eager attention, of the stack's dtype; for stacks with layers of several kinds
        (sliding windows in some), a dictionary of one for each kind.

    Raises:
        DlskipError: The attention implementation takes no such mask.
    """
    config = stack.config
    if config._attn_implementation not in MASKED:
        raise DlskipError(
            f"rows of several examples cannot be computed with {config._attn_implementation}", where="packing",
            mend="load the backbone with sdpa or eager attention, or set packing: null",
        )  # fmt: skip
    weight: Tensor = stack.get_input_embeddings().weight
    like = weight.new_empty((*position_ids.shape, 0), device=position_ids.device)  # its shape and dtype are asked for
    made: Any = create_masks_for_generate(config, like, None, None, position_ids=position_ids)
    if isinstance(made, dict) and len(made) == 1:  # not every stack takes a dictionary
        (made,) = made.values()
    return made


@torch.no_grad()
def check_packing(model: nn.Module) -> None:
    """Refuses a model whose examples would see each other in a packed row; runs it on a few tokens.

    Two examples in one row must give what each gives alone, and the second must not change with the first. Models with
    recurrent layers or convolutions over tokens fail this, and those that reckon ALiBi from the padding.

    Examples:
        >>> check_packing(backbone)

    Raises:
        DlskipError: The model cannot be packed.
    """
    stack: Any = find_stack(model)
    packed_mask(stack, torch.zeros(1, 1, dtype=torch.long))  # says itself what is wrong with the implementation
    device = next(stack.parameters()).device
    first, other, second = torch.arange(3 * _PROBE, device=device).view(3, -1) % stack.config.vocab_size

    def states(*examples: Tensor) -> Tensor:
        """The last example's (T, D)."""
        position = torch.cat([torch.arange(len(e), device=device) for e in examples])[None]
        out = stack(
            input_ids=torch.cat(examples)[None], position_ids=position, attention_mask=packed_mask(stack, position),
            use_cache=False,
        )  # fmt: skip
        found: Tensor = out[0][0, -len(examples[-1]) :]
        return found

    training = model.training
    model.eval()
    try:
        alone, after_one, after_another = states(second), states(first, second), states(other, second)
    except Exception as error:  # whatever a family's code says to arguments that it does not know
        raise _refused(stack) from error
    finally:
        model.train(training)
    rounding = min(1e-2, 16 * torch.finfo(alone.dtype).eps)  # experts are given other tokens with another example
    far = float((after_one - alone).float().norm() / alone.float().norm())
    seen = float((after_one - after_another).float().norm() / alone.float().norm())
    if not (far < 0.1 and seen < rounding):  # rows of other shapes are rounded otherwise
        raise _refused(stack)


def _refused(stack: nn.Module) -> DlskipError:
    return DlskipError(
        "this model cannot keep examples of one row apart", where=type(stack).__name__,
        mend="set packing: null in the `train` sections",
    )  # fmt: skip
