"""One forward pass through the stack: who decides, for which tokens, and what was decided."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from operator import add
from typing import Any, Literal

import torch
from torch import Tensor

from dlskip.skip.cache import SkipCache
from dlskip.skip.policy import Policy
from dlskip.skip.selection import Selection


@dataclass(frozen=True)
class Deciders:
    """The deciding tokens of a teacher-forced batch: last prompt token, every response token (docs/method.md §6).

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

    @classmethod
    def each(
        cls, shape: tuple[int, int], mask: Tensor | None, device: torch.device, prompt: int = 1
    ) -> Deciders:  # fmt: skip
        """Every one of (B, T) tokens decides for itself, but the last of the ``prompt`` first ones for these.

        Examples:
            >>> Deciders.each((1, 5), None, torch.device("cpu"), prompt=3).owner
            tensor([[0, 0, 0, 1, 2]])

        Args:
            shape: (B, T).
            mask: (B, S) of 0/1 or None: which are padding.
            device: Where the hidden states are.
            prompt: At least 1.
        """
        rows, tokens = shape
        each = tokens - prompt + 1
        places = torch.arange(tokens, device=device)
        owner = (places - prompt + 1).clamp(min=0) + each * torch.arange(rows, device=device)[:, None]
        valid = torch.ones_like(owner).bool()
        if isinstance(mask, Tensor) and mask.dim() == 2:
            valid = mask[:, -tokens:].bool().to(device)
        return cls(
            torch.arange(rows, device=device).repeat_interleave(each), places[prompt - 1 :].repeat(rows), owner, valid
        )


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

    def add(self, other: Counter) -> None:
        """Counts what another one counted too."""
        with _COUNTING:
            self.ran[:] = map(add, self.ran, other.ran)
            self.decided[:] = map(add, self.decided, other.decided)


_COUNTING = threading.Lock()  # passes of two threads may end together


class Here(threading.local):
    """What one thread has of a model: threads that share one do not see each other's passes.

    Args:
        current: The pass that runs now.
        last: The pass before it.
    """

    current: Pass | None = None
    last: Pass | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Here:
        return Here()

    def __reduce__(self) -> tuple[type[Here], tuple[()]]:
        return Here, ()


@dataclass
class State:
    """What the layers of one model share.

    Args:
        reads: Whether a controller reads its layer's ``input`` or ``output``.
        kv_fill: What a skipped layer leaves in the cache: ``copy`` or ``project``.
        counter: What was run and decided since it was reset.
        here: What each thread has of the model.
    """

    reads: Literal["input", "output"]
    kv_fill: Literal["copy", "project"]
    counter: Counter
    here: Here = field(default_factory=Here)

    @property
    def current(self) -> Pass | None:
        """The pass that runs in this thread."""
        return self.here.current


_ANSWERS = torch.tensor([False]), torch.tensor([True])


class _OnItsWay:
    """A decision being copied to the host, queued behind what decided it and ahead of the layer that runs meanwhile.

    Args:
        run: (N,) bool on a CUDA device.
        host: (N,) bool, pinned: where it goes.
    """

    def __init__(self, run: Tensor, host: Tensor) -> None:
        self._host = host
        self._host.copy_(run, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()

    def arrived(self) -> Tensor:
        """The decision on the CPU; waits for it alone, not for what was queued after it."""
        self._copied.synchronize()
        return self._host


class Pass:
    """The state of one forward pass of B rows of T new tokens.

    Args:
        policy: Who decides.
        shape: (B, T).
        layers: L.
        device: Where the hidden states are.
        attention_mask: (B, S) of 0/1 finds the last token of right-padded rows; of masks of other forms no use is made.
        deciders: None = the last token of each row decides for the row.
        cache: The pass's cache; None when no layer needs another's keys and values.
        price: The scaled price of a layer, one or (N,), that the controllers are conditioned on.
    """

    def __init__(
        self,
        policy: Policy,
        shape: tuple[int, int],
        layers: int,
        device: torch.device,
        attention_mask: Any,
        deciders: Deciders | None,
        cache: SkipCache | None,
        price: Tensor | float = 0.0,
    ) -> None:
        self.policy = policy
        self.layers = layers
        self.deciders = deciders
        self.cache = cache
        self.price = price
        self.device = device
        self.batch, self.tokens = shape
        self.counter = Counter.zeros(layers)  # of this pass
        if deciders is not None:
            self._places: tuple[Tensor, Tensor] | None = (deciders.rows, deciders.tokens)
        else:
            self._places = _last_places(attention_mask, self.batch, self.tokens, device)
        self.deciding = self.batch if deciders is None else len(deciders.rows)  # N
        self.runs: list[Tensor | None] = [None] * layers  # per layer: (N,) bool, None = all
        self._counts: dict[int, int] = {}
        self._copies: dict[int, _OnItsWay] = {}
        self._arrivals: Tensor | None = None  # (L, N) bool, pinned: one allocation for all decisions of a pass
        policy.begin(self.deciding, layers, self.tokens, device)

    def at_deciders(self, h: Tensor) -> Tensor:
        """Gathers (B, T, D) at the deciding tokens: (N, D)."""
        return h[:, -1] if self._places is None else h[self._places]

    def count(self, layer: int) -> int:
        """How many of the deciding tokens run ``layer``."""
        run = self.runs[layer]
        if run is None:
            return self.deciding
        if layer not in self._counts:
            self._counts[layer] = int(self._on_host(layer, run).sum())
        return self._counts[layer]

    def note(self, layer: int, run: Tensor | None) -> None:
        """Notes who runs ``layer``: (N,) bool, None = all. On CUDA its copy to the host starts (docs/method.md §2)."""
        if run is not None and self.deciders is not None:
            run = run.to(self.device)
        self.runs[layer] = run
        if run is not None and run.is_cuda:
            if self._arrivals is None:
                self._arrivals = torch.empty(self.layers, self.deciding, dtype=torch.bool, pin_memory=True)
            self._copies[layer] = _OnItsWay(run, self._arrivals[layer])

    def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> None:
        """Asks the policy who runs ``layer`` and notes the answer (see ``Policy.decide``)."""
        self.note(layer, self.policy.decide(layer, logit, state))

    def decide_alone(self, layer: int, logit: float | None) -> bool:
        """``decide`` for the only deciding token, without a tensor; False if the policy cannot: ask ``decide``."""
        runs = self.policy.alone(layer, logit)
        if runs is None:
            return False
        self.runs[layer] = _ANSWERS[runs]
        self._counts[layer] = int(runs)
        return True

    def is_free(self, layer: int) -> bool:
        """Whether ``layer`` may be skipped: never the first, and the last only by an early exit (docs/method.md §2)."""
        return 0 < layer < self.layers - (0 if self.policy.frees_last else 1)

    def rows(self, layer: int) -> Tensor:
        """The rows that run ``layer``, if some but not all do: (B',) long, where it was decided."""
        run = self.runs[layer]
        assert run is not None
        return _where(run, self.count(layer))

    def selection(self, layer: int) -> tuple[bool, Selection | None]:
        """Which tokens run ``layer``: (whether any does, their selection; None = all)."""
        run = self.runs[layer]
        count = self.count(layer)
        if run is None or count == self.deciding:
            return True, None
        if not count:
            return False, None
        if self.deciders is None:
            return True, Selection(self.rows(layer).to(self.device, non_blocking=True))
        tokens = run[self.deciders.owner] & self.deciders.valid  # (B, T)
        some = tokens.any(dim=1)
        if bool((tokens == (some[:, None] & self.deciders.valid)).all()):  # every row runs whole or not at all
            return True, Selection(some.nonzero().squeeze(1))
        return True, Selection.of_tokens(tokens)

    def skipped_tokens(self, layer: int) -> Selection | None:
        """The tokens that skip ``layer``, for the `project` fill rule; None = all."""
        run = self.runs[layer]
        assert run is not None
        if not self.count(layer):
            return None
        if self.deciders is None:
            rows = _where(~run, self.deciding - self.count(layer))
            return Selection(rows.to(self.device, non_blocking=True))
        return Selection.of_tokens(~run[self.deciders.owner] & self.deciders.valid)

    def decided_tokens(self, layer: int) -> int:
        """How many tokens the policy let run ``layer``, padding of row-wise passes included."""
        if self.deciders is None:
            return self.count(layer) * self.tokens
        run = self.runs[layer]
        if run is None:
            return self.batch * self.tokens
        return int((run[self.deciders.owner] & self.deciders.valid).sum())

    def run_matrix(self) -> Tensor:
        """All decisions of the pass: (N, L) bool on the CPU, True = ran."""
        ones = torch.ones(self.deciding, dtype=torch.bool)
        runs = [ones if run is None else self._on_host(layer, run) for layer, run in enumerate(self.runs)]
        return torch.stack(runs, dim=1)

    def _on_host(self, layer: int, run: Tensor) -> Tensor:
        copy = self._copies.get(layer)
        return run.cpu() if copy is None else copy.arrived()


def _where(rows: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` True entries of (N,) bool; as the count is known, CUDA need not be waited for."""
    found = torch.nonzero_static(rows, size=count) if rows.is_cuda else rows.nonzero()
    return found.squeeze(1)


def _last_places(
    mask: Any, batch: int, tokens: int, device: torch.device
) -> tuple[Tensor, Tensor] | None:  # fmt: skip
    """Rows and positions of each row's last token; None if that is the last one of all, as padded on the left."""
    if not isinstance(mask, Tensor) or mask.dim() != 2 or tokens == 1 or bool(mask[:, -1].all()):
        return None
    steps = torch.arange(1, tokens + 1, device=device)
    return torch.arange(batch, device=device), (mask[:, -tokens:].to(device).long() * steps).argmax(dim=1)
