"""What is timed: the plain backbone, the wrapped model with more or less skipped, and what they are compared with."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from dlskip.fast import use_fast_path
from dlskip.inference.export import cut
from dlskip.skip import FullDepth, Policy, Threshold, attach, skipper_of
from dlskip.skip.stack import find_stack

EngineKind = Literal["plain", "full", "random", "same_mask", "cut", "learned", "exit", "compiled"]
# the engines that all others are compared with
PLAIN = "plain"
WHOLE = "full"
SMALLEST = "cut to 2"
# and those that compiled ones are compared with
WHOLE_COMPILED = "full, compiled"
SMALLEST_COMPILED = "cut to 3, compiled"
POOL = 61  # masks drawn beforehand: a prime, so that they fall on other tokens in every turn


@dataclass(frozen=True)
class Engine:
    """One way to run ``generate()``.

    Args:
        name: In tables.
        kind: ``plain``, ``cut`` and ``exit`` run the bare backbone; the others the wrapped model, whose counter says
            what was skipped. Under ``same_mask`` all rows of a batch skip the same layers.
        model: A Transformers model.
        share: Of layers, that it was asked to skip: engines of one share are compared.
        cut_out: Share of the layers that ``model`` has lost; None where a share has no meaning.
        context: Entered around every call: the policy.
        options: Further keywords of ``generate()``.
    """

    name: str
    kind: EngineKind
    model: Any
    share: float | None = None
    cut_out: float | None = None
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def wrapped(self) -> bool:
        """Whether layers of ``model`` may be skipped."""
        return self.kind not in ("plain", "cut", "exit")


class Exactly(Policy):
    """Skips the same number of free layers for every token, others for each: random masks of one share.

    Args:
        share: Of all L layers, to the nearest whole number of layers; at most the L - 2 free ones.
        batch: ``per_sample`` draws for each row, ``majority`` once for the batch.
        seed: Seed of the masks.
    """

    def __init__(self, share: float, batch: str = "per_sample", *, seed: int = 0) -> None:
        self.share = share
        self.batch = batch
        self.generator = torch.Generator().manual_seed(seed)
        self._pool: list[Tensor] = []
        self._known: list[list[bool]] = []
        self._next = 0

    def begin(self, n: int, layers: int, tokens: int, device: torch.device) -> None:
        super().begin(n, layers, tokens, device)
        if not self._pool or self._pool[0].shape != (n, layers):
            drawn = [self._draw(n, layers) for _ in range(POOL)]
            self._pool = drawn
            self._known = [masks[0].tolist() for masks in drawn]
        self._next += 1
        self._now = self._pool[self._next % POOL]

    def _draw(self, n: int, layers: int) -> Tensor:
        """Masks (n, L) bool, True = run."""
        free = layers - 2
        skipped = min(free, round(self.share * layers))
        rows = n if self.batch == "per_sample" else 1
        rank = torch.rand(rows, free, generator=self.generator).argsort(dim=1).argsort(dim=1)
        runs = torch.ones(n, layers, dtype=torch.bool)
        runs[:, 1:-1] = (rank >= skipped).expand(n, free)
        return runs

    def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> Tensor | None:
        return self._now[:, layer]

    def alone(self, layer: int, logit: float | None) -> bool | None:
        return self._known[self._next % POOL][layer]


def engines(
    plain: Any,
    model: Any,
    shares: Sequence[float],
    thresholds: Sequence[float],
    batch: int,
    *,
    exit_at: int | None = None,
    compile: bool = False,
) -> list[Engine]:
    """All that is compared at a batch size; the plain backbone first, the wrapped model at full depth second.

    Args:
        plain: The backbone without skipping.
        model: The same backbone with skipping attached.
        shares: Of layers, that random masks and cut models skip.
        thresholds: Of the learned policy.
        batch: Rows.
        exit_at: Layers of Transformers' own early-exit drafter; None leaves it out.
        compile: Add the wrapped model through compiled code, which on a CPU serves batch 1 alone.
    """
    skipper = skipper_of(model)
    layers = skipper.num_layers

    def under(policy: Policy, name: str, kind: EngineKind, share: float | None = None) -> Engine:
        return Engine(name, kind, model, share, context=lambda: skipper.using(policy))

    @contextmanager
    def compiled(policy: Policy) -> Iterator[None]:
        use_fast_path(model, compile=True)
        try:
            with skipper.using(policy):
                yield
        finally:
            use_fast_path(model)

    def through(policy: Policy, name: str) -> Engine:
        return Engine(f"{name}, compiled", "compiled", model, context=lambda: compiled(policy))

    def without(skipped: int, name: str, share: float | None = None) -> Engine:
        return Engine(name, "cut", cut(plain, evenly_spaced_kept(layers, skipped)), share, skipped / layers)

    def small() -> Engine:
        # As few as can be wrapped; a copy, since the cut model's layers are the plain one's own.
        kept = copy.deepcopy(cut(plain, [0, layers // 2, layers - 1]))
        attach(kept, bottleneck=skipper.bottleneck, prices=skipper.prices).cast_adapters(kept.dtype)
        use_fast_path(kept.requires_grad_(False).eval(), compile=True)
        return Engine(SMALLEST_COMPILED, "compiled", kept, cut_out=1 - 3 / layers)

    found = [Engine(PLAIN, "plain", plain, cut_out=0.0), under(FullDepth(), WHOLE, "full")]
    for share in shares:
        found.append(under(Exactly(share), f"random {share:g}", "random", share))
        if batch > 1:
            found.append(under(Exactly(share, "majority"), f"random {share:g}, same mask", "same_mask", share))
        found.append(without(min(layers - 2, round(share * layers)), f"cut {share:g}", share))
    found += [under(Threshold(t), f"learned {t:g}", "learned") for t in thresholds]
    found.append(without(layers - 2, SMALLEST))
    if compile and (batch == 1 or model.device.type == "cuda"):
        found.append(through(FullDepth(), WHOLE))
        found += [through(Exactly(share), f"random {share:g}") for share in shares]
        if batch > 1:
            found += [through(Exactly(share, "majority"), f"random {share:g}, same mask") for share in shares]
        found += [through(Threshold(t), f"learned {t:g}") for t in thresholds]
        found.append(small())
    if exit_at is not None and batch == 1 and exits_early(plain, exit_at):  # it can only run one prompt at a time
        found.append(Engine(f"exit at {exit_at}", "exit", plain, options={"assistant_early_exit": exit_at}))
    return found


def exits_early(plain: Any, layers: int) -> bool:
    """Whether Transformers' early-exit drafter knows this family; says so if not.

    Examples:
        >>> exits_early(backbone, 2)
        True
    """
    stack: Any = find_stack(plain)
    before = stack.config.num_hidden_layers
    ids = torch.ones(1, 2, dtype=torch.long, device=plain.device)
    try:
        plain.generate(ids, max_new_tokens=3, do_sample=False, assistant_early_exit=layers)
    except (IndexError, AttributeError, ValueError, TypeError, RuntimeError) as error:
        print(f"left out: Transformers cannot exit {type(plain).__name__} early ({error})", file=sys.stderr)
        return False
    finally:
        stack.config.num_hidden_layers = before
    return True


def evenly_spaced_kept(layers: int, skipped: int) -> list[int]:
    """The layers that remain when ``skipped`` of the free ones are left out, evenly spread."""
    gone = {1 + (i * (layers - 2)) // skipped for i in range(skipped)} if skipped else set()
    return [i for i in range(layers) if i not in gone]
