"""Which rows and tokens of a batch run a layer: gathering them, and scattering results back.

A skipped row or token is left out of the tensors that the layer sees, so it costs nothing, in training as in
inference. ``Selection`` is the only place that knows how.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Selection:
    """B' of B rows and, for ragged patterns, Tq <= T token slots of each.

    Args:
        rows: (B',) long, the rows that take part.
        slots: (B', Tq) long, the token position of each slot; None = all T tokens of each row.
        valid: (B', Tq) bool, False where a slot only pads a shorter row.
    """

    rows: Tensor
    slots: Tensor | None = None
    valid: Tensor | None = None

    @classmethod
    def of_tokens(cls, run: Tensor) -> Selection | None:
        """Selects the True entries of ``run`` (B, T) bool; None if there are none."""
        rows = run.any(dim=1).nonzero().squeeze(1)
        if not len(rows):
            return None
        run = run[rows]
        count = run.sum(dim=1)
        width = int(count.max())
        # A stable sort puts the running tokens first, in order; the tail of shorter rows is padding.
        slots = torch.argsort((~run).to(torch.uint8), dim=1, stable=True)[:, :width]
        valid = torch.arange(width, device=run.device)[None] < count[:, None]
        return cls(rows, slots, valid)

    def take(self, x: Tensor) -> Tensor:
        """Gathers (B, T, ...) to (B', Tq, ...)."""
        return x[self.rows] if self.slots is None else x[self.rows[:, None], self.slots]

    def put(self, base: Tensor, values: Tensor) -> Tensor:
        """Returns ``base`` (B, T, ...) with ``values`` (B', Tq, ...) written at the selected places; differentiable."""
        if self.slots is None or self.valid is None:
            return base.index_copy(0, self.rows, values)
        rows = self.rows[:, None].expand_as(self.slots)[self.valid]
        return base.index_put((rows, self.slots[self.valid]), values[self.valid])

    def put_heads(self, base: Tensor, values: Tensor) -> Tensor:
        """Like ``put`` for keys or values: (B, H, T, d) and (B', H, Tq, d)."""
        if self.slots is None:
            return base.index_copy(0, self.rows, values)
        return self.put(base.transpose(1, 2), values.transpose(1, 2)).transpose(1, 2)

    def take_mask(self, mask: Tensor) -> Tensor:
        """Gathers an attention mask: (B or 1, 1 or H, T, S) per query, or (B, S) per row."""
        mask = mask.expand(len(self.rows), *mask.shape[1:]) if mask.shape[0] == 1 else mask[self.rows]
        if self.slots is None or mask.dim() == 2:
            return mask
        index = self.slots[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
        return mask.gather(2, index)

    def take_positions(self, x: Tensor) -> Tensor:
        """Gathers what is laid out (B or 1, T, ...): position ids, rotary cosines and sines."""
        if x.shape[0] == 1:
            return x if self.slots is None else x[0][self.slots]
        return self.take(x)
