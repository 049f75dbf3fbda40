"""One forward pass through the stack: who decides, for which tokens, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlskip.skip.cache import SkipCache
from dlskip.skip.policy import Policy
from dlskip.skip.selection import Selection


@dataclass(frozen=True)
class Deciders:
    """The deciding tokens of a teacher-forced batch: the last prompt token and each response token (method §6).

    Args:
        rows: (N,) long, the row of each deciding token.
        tokens: (N,) long, its position.
        owner: (B, T) long, which of the N decides for each token; any value where ``valid`` is False.
        valid: (B, T) bool, False for padding.
    """

    rows: Tensor
    tokens: Tensor
    owner: Tensor
    valid: Tensor


@dataclass
class Counter:
    """What was computed and what was decided, in units of one token through one layer.

    ``ran[l]`` counts the tokens in the tensors that block l really received; ``decided[l]`` those that the policy let
    run it. They are equal unless skipping is broken (ragged teacher-forced passes pad, so there ran >= decided).
    """

    ran: list[int]
    decided: list[int]

    @classmethod
    def zeros(cls, layers: int) -> Counter:
        """A fresh counter for ``layers`` layers."""
        return cls([0] * layers, [0] * layers)


class Pass:
    """The state of one forward pass of B rows of T new tokens.

    Args:
        policy: Who decides.
        shape: (B, T).
        layers: L.
        device: Where the hidden states are.
        attention_mask: (B, S) of 0/1 or None; finds the last token of right-padded rows.
        deciders: None = the last token of each row decides for the row.
        cache: The pass's cache; None when no layer needs another's keys and values.
    """

    def __init__(
        self,
        policy: Policy,
        shape: tuple[int, int],
        layers: int,
        device: torch.device,
        attention_mask: Tensor | None,
        deciders: Deciders | None,
        cache: SkipCache | None,
    ) -> None:
        self.policy, self.layers, self.deciders, self.cache = policy, layers, deciders, cache
        self.batch, self.tokens = shape
        if deciders is not None:
            self.rows, self.positions = deciders.rows, deciders.tokens
        else:
            self.rows = torch.arange(self.batch, device=device)
            self.positions = _last_positions(attention_mask, self.batch, self.tokens, device)
        self.runs: list[Tensor | None] = [None] * layers  # per layer: (N,) bool, None = all
        policy.begin(len(self.rows), layers, self.tokens, device)

    def at_deciders(self, h: Tensor) -> Tensor:
        """Gathers (B, T, D) at the deciding tokens: (N, D)."""
        return h[self.rows, self.positions]

    def is_free(self, layer: int) -> bool:
        """Whether ``layer`` may be skipped: never the first, and the last only by an early exit (§3.2)."""
        return 0 < layer < self.layers - (0 if self.policy.frees_last else 1)

    def selection(self, layer: int) -> tuple[bool, Selection | None]:
        """Which tokens run ``layer``: (whether any does, their selection; None = all)."""
        run = self.runs[layer]
        if run is None or bool(run.all()):
            return True, None
        if not bool(run.any()):
            return False, None
        if self.deciders is None:
            return True, Selection(run.nonzero().squeeze(1))
        tokens = run[self.deciders.owner] & self.deciders.valid  # (B, T)
        some = tokens.any(dim=1)
        if bool((tokens == (some[:, None] & self.deciders.valid)).all()):  # every row runs whole or not at all
            return True, Selection(some.nonzero().squeeze(1))
        return True, Selection.of_tokens(tokens)

    def skipped_tokens(self, layer: int) -> Selection | None:
        """The tokens that skip ``layer``, for the `project` fill rule; None = all."""
        run = self.runs[layer]
        assert run is not None
        if not bool(run.any()):
            return None
        if self.deciders is None:
            return Selection((~run).nonzero().squeeze(1))
        return Selection.of_tokens(~run[self.deciders.owner] & self.deciders.valid)

    def decided_tokens(self, layer: int) -> int:
        """How many tokens the policy let run ``layer``, padding of row-wise passes included."""
        run = self.runs[layer]
        if run is None:
            return self.batch * self.tokens
        if self.deciders is None:
            return int(run.sum()) * self.tokens
        return int((run[self.deciders.owner] & self.deciders.valid).sum())

    def run_matrix(self) -> Tensor:
        """All decisions of the pass: (N, L) bool on the CPU, True = ran."""
        ones = torch.ones(len(self.rows), dtype=torch.bool)
        return torch.stack([ones if run is None else run.cpu() for run in self.runs], dim=1)


def _last_positions(mask: Tensor | None, batch: int, tokens: int, device: torch.device) -> Tensor:
    if mask is not None and mask.dim() == 2 and tokens > 1:
        new = mask[:, -tokens:].to(device)
        steps = torch.arange(1, tokens + 1, device=device)
        return (new.long() * steps).argmax(dim=1)
    return torch.full((batch,), tokens - 1, device=device)
