"""Who decides which layers are skipped: nobody, a fixed mask, chance, the thresholded or the sampled controllers.

A pass has N deciding tokens: one per row in prefill and decoding (the last token decides for the row), one per
predicted token in teacher-forced training. A policy answers, layer by layer, which of the N run the next layer.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlskip.errors import DlskipError

BatchPolicy = Literal["per_sample", "majority", "any", "all"]


class Policy:
    """Skips nothing; the base of the others.

    Examples:
        >>> class EverySecond(Policy):
        ...     def decide(self, layer, logit, state):
        ...         return torch.full((self.n,), layer % 2 == 0)  # True = runs
        >>> with skipper.using(EverySecond()):
        ...     tokens = model.generate(**inputs, max_new_tokens=4)
    """

    uses_heads = False  # whether the controllers' logits are needed
    uses_similarity = False  # whether a decision needs the output of the layer before it
    frees_last = False  # whether the last layer may be skipped too
    price: Tensor | float | None = None  # lambda, one or (N,), for controllers conditioned on it

    def own(self) -> Policy:
        """The policy of one pass: a copy, where that loses nothing, so that passes of two threads do not meet.

        One that carries something from pass to pass, or is read afterwards, stays the same object.
        """
        return copy.copy(self) if type(self) in _COPIED else self

    def by_token(self, rows: int) -> Policy:
        """The policy of a pass of several tokens whose B rows have a filled cache: each token decides for itself.

        Raises:
            DlskipError: It decides for all rows together.
        """
        return self

    def begin(self, n: int, layers: int, tokens: int, device: torch.device) -> None:
        """Called once per pass: N deciding tokens, L layers, T tokens per row."""
        self.n = n
        self.layers = layers

    def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> Tensor | None:
        """Answers which deciding tokens run ``layer``: (N,) bool on the CPU or where the logits are, or None for all.

        Args:
            layer: Index of the layer decided about; never the first or the last.
            logit: (N,) float32, the controllers' skip logits (None unless ``uses_heads``).
            state: (N, D), what the controller of the layer before read.
        """
        return None

    def alone(self, layer: int, logit: float | None) -> bool | None:
        """``decide`` for a single deciding token, without a tensor; None = ask ``decide``."""
        return None

    def observe(self, layer: int, before: Tensor, after: Tensor, ran: Tensor | None) -> None:
        """Sees the deciding tokens' states (N, D) before and after ``layer`` (only if ``uses_similarity``)."""


class FullDepth(Policy):
    """Runs every layer.

    Examples:
        >>> with skipper.using(FullDepth()):  # the same as skipper.full_depth()
        ...     tokens = model.generate(**inputs, max_new_tokens=4)
    """


class Forced(Policy):
    """Follows given masks.

    Examples:
        >>> runs = torch.ones(skipper.num_layers, dtype=torch.bool)
        >>> runs[3] = False  # no token runs layer 3
        >>> with skipper.using(Forced(runs)):
        ...     tokens = model.generate(**inputs, max_new_tokens=4)
        >>> skipper.last.run_matrix()[0].tolist()
        [True, True, True, False, True, True]

    Args:
        runs: (N, L) or (L,) bool, True = run. The first and last layer must be True.
        frees_last: The last may be False: an early exit.
    """

    def __init__(self, runs: Tensor, *, frees_last: bool = False) -> None:
        runs = torch.atleast_2d(torch.as_tensor(runs, dtype=torch.bool))
        self.frees_last = frees_last
        if not (runs[:, 0].all() and (frees_last or runs[:, -1].all())):
            raise DlskipError("the first and the last layer are never skipped", where="Forced", mend="set them to True")
        self.runs = runs

    def begin(self, n: int, layers: int, tokens: int, device: torch.device) -> None:
        super().begin(n, layers, tokens, device)
        if self.runs.shape[1] != layers or self.runs.shape[0] not in (1, n):
            raise DlskipError(f"masks of shape {tuple(self.runs.shape)}, need ({n}, {layers})", where="Forced")
        self._now = self.runs.expand(n, layers)
        self._first: list[bool] = self.runs[0].tolist()

    def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> Tensor | None:
        return self._now[:, layer]

    def alone(self, layer: int, logit: float | None) -> bool | None:
        return self._first[layer]


class RandomSkip(Policy):
    """Skips each free layer by chance, independently per deciding token: the control at a matched measured rate.

    Examples:
        >>> with skipper.using(RandomSkip(0.3, seed=1)):
        ...     tokens = model.generate(**inputs, max_new_tokens=4)

    Args:
        prefill: Share of all L layers to skip for prompts (passes of more than one token).
        decode: The same for single tokens; None = as ``prefill``.
        seed: Seed of its own generator.
    """

    def __init__(self, prefill: float, decode: float | None = None, *, seed: int = 0) -> None:
        self.rates = (prefill, prefill if decode is None else decode)
        self.generator = torch.Generator().manual_seed(seed)

    def begin(self, n: int, layers: int, tokens: int, device: torch.device) -> None:
        super().begin(n, layers, tokens, device)
        share = self.rates[0] if tokens > 1 else self.rates[1]
        self._p = min(1.0, share * layers / max(layers - 2, 1))  # L-2 layers are free to skip

    def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> Tensor | None:
        return torch.rand(self.n, generator=self.generator) >= self._p


class Threshold(Policy):
    """Skips a layer iff ``p > threshold``, with one decision per row or one for the batch (docs/method.md §6).

    Examples:
        >>> with skipper.using(Threshold(0.5, "majority")):
        ...     tokens = model.generate(**inputs, max_new_tokens=4)

    Args:
        threshold: In [0, 1].
        batch: ``per_sample``; ``majority`` (skip when more than half of the rows exceed the threshold), ``any`` (skip
            when at least one does), ``all`` (skip when all do).
        price: Lambda, one or (N,), for controllers conditioned on it; None = the middle of their range.
    """

    uses_heads = True

    def __init__(
        self, threshold: float, batch: BatchPolicy = "per_sample", *, price: Tensor | float | None = None
    ) -> None:
        if not 0 <= threshold <= 1:
            raise DlskipError(f"threshold {threshold} is no probability", where="threshold", mend="use 0..1")
        if batch not in ("per_sample", "majority", "any", "all"):
            raise DlskipError(
                f"unknown batch policy {batch!r}", where="batch_policy", mend="per_sample|majority|any|all"
            )
        self.threshold = threshold
        self.batch = batch
        self.price = price
        # Compared as logits: no sigmoid, and exact at 0 and 1.
        self._limit = (
            math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
        )

    def by_token(self, rows: int) -> Policy:
        if self.batch == "per_sample":
            return self
        if rows == 1:
            return Threshold(self.threshold, price=self.price)
        raise DlskipError(
            f"{self.batch}: {rows} rows with a filled cache cannot decide together about several tokens",
            where="batch_policy", mend="per_sample, or one token at a time",
        )  # fmt: skip

    def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> Tensor | None:
        assert logit is not None
        skip = logit > self._limit
        if self.batch == "per_sample" or self.n == 1:
            return ~skip
        share = skip.float().mean()
        whole = share > 0.5 if self.batch == "majority" else share > 0 if self.batch == "any" else share == 1
        return (~whole).expand(self.n)

    def alone(self, layer: int, logit: float | None) -> bool | None:
        assert logit is not None
        return logit <= self._limit


@dataclass(frozen=True)
class Strategy:
    """The sampling strategy: after M similar layers the next is skipped more often (docs/method.md §4).

    Examples:
        >>> strategy = Strategy(tau=0.95, t=0.2, m=3)
        >>> policy = Sampled(torch.Generator().manual_seed(0), strategy)

    Args:
        tau: A layer is similar (s-p) if ``cos(h_{l+1}[last], h_l[last]) > tau``.
        t: Added to the skip probability.
        m: M; 0 switches the bonus off.
        count_skipped: Whether a skipped layer, trivially similar to its input, counts as s-p.
    """

    tau: float
    t: float
    m: int
    count_skipped: bool = False


class Sampled(Policy):
    """Samples actions from the controllers, and remembers the trajectory for the policy gradient (docs/method.md §4).

    After a pass, lists with one entry per free layer hold: ``states`` (N, D) that the controllers read (detached),
    ``skipped`` (N,) bool actions, ``bonus`` (N,) what the strategy added to the probability.

    Examples:
        >>> with skipper.using(Sampled(torch.Generator().manual_seed(0))) as policy:
        ...     out = model(**inputs)
        >>> len(policy.skipped)  # the free layers of a model with six
        4

    Args:
        generator: Source of the draws; on the CPU, so that results do not depend on the device.
        strategy: None samples from the controllers alone.
        price: As of ``Threshold``.
    """

    uses_heads = True

    def __init__(
        self, generator: torch.Generator, strategy: Strategy | None = None, *, price: Tensor | float | None = None
    ) -> None:
        self.generator = generator
        self.price = price
        self.strategy = strategy if strategy is not None and strategy.m > 0 else None
        self.uses_similarity = self.strategy is not None

    def begin(self, n: int, layers: int, tokens: int, device: torch.device) -> None:
        super().begin(n, layers, tokens, device)
        self.states: list[Tensor] = []
        self.skipped: list[Tensor] = []
        self.bonus: list[Tensor] = []
        self._streak = torch.zeros(n, dtype=torch.long, device=device)  # s-p layers in a row, per token

    def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> Tensor | None:
        assert logit is not None and state is not None
        p = torch.sigmoid(logit.detach())
        bonus = torch.zeros_like(p)
        if self.strategy is not None:
            bonus = self.strategy.t * (self._streak >= self.strategy.m).to(p.dtype)
        draw = torch.rand(self.n, generator=self.generator).to(p.device)
        skip = draw < (p + bonus).clamp(max=1.0)
        self.states.append(state.detach())
        self.skipped.append(skip)
        self.bonus.append(bonus)
        return ~skip

    def observe(self, layer: int, before: Tensor, after: Tensor, ran: Tensor | None) -> None:
        assert self.strategy is not None
        similar = torch.cosine_similarity(before.float(), after.float(), dim=-1) > self.strategy.tau
        if not self.strategy.count_skipped and ran is not None:
            similar = similar & ran
        self._streak = torch.where(similar, self._streak + 1, torch.zeros_like(self._streak))


_COPIED = (FullDepth, Forced, RandomSkip, Threshold)
