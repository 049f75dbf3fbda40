"""Paired timing of ``generate()``: every engine in turn, turn after turn, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm.auto import tqdm

from dlskip.bench.engines import Engine, EngineKind
from dlskip.data.batches import left_pad
from dlskip.skip import skipper_of

T = TypeVar("T")


@dataclass
class EngineTiming:
    """One engine's seconds, an entry per turn, and the share of layer applications that it left out in each."""

    kind: EngineKind
    share: float | None = None
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    skipped: dict[str, float] = field(default_factory=dict)
    peak_mb: float | None = None

    def ms(self, phase: str) -> float:
        """Median in milliseconds: of the prompts' pass with its first token, or of one further token."""
        return 1e3 * float(np.median(getattr(self, phase)))

    def spread(self, phase: str) -> tuple[float, float]:
        """Quartiles in milliseconds."""
        low, high = np.quantile(getattr(self, phase), [0.25, 0.75])
        return 1e3 * float(low), 1e3 * float(high)


def time_engines(
    engines: Sequence[Engine], prompts: Sequence[list[int]], *, pad: int, tokens: int, repeats: int
) -> dict[str, EngineTiming]:
    """Times prefill (one new token) and decoding (the time that ``tokens`` more take, per token).

    Args:
        engines: What is timed, in turn.
        prompts: Token ids, one batch; padded on the left.
        pad: Padding id.
        tokens: New tokens after the first, whatever they are: every engine does the same number of steps.
        repeats: Turns; one more comes first, to warm up.
    """
    found = {engine.name: EngineTiming(engine.kind, engine.share) for engine in engines}
    for turn in tqdm(range(repeats + 1), desc=f"batch {len(prompts)}", leave=False):
        for engine in engines:
            device = next(engine.model.parameters()).device
            inputs = {k: v.to(device) for k, v in left_pad(prompts, pad).items()}
            timing = found[engine.name]
            reset_peak()
            _seconds(engine, inputs, 1, pad)  # the weights come back into the processor's caches after other models
            first, before = _seconds(engine, inputs, 1, pad)
            whole, after = _seconds(engine, inputs, 1 + tokens, pad)
            if turn:
                timing.prefill.append(first)
                timing.decode.append((whole - first) / tokens)
                timing.peak_mb = max(timing.peak_mb or 0.0, peak_mb() or 0.0) or None
            if engine.cut_out is not None:
                timing.skipped = dict.fromkeys(("prefill", "decode"), engine.cut_out)
            elif engine.wrapped:
                timing.skipped = {"prefill": _share(before), "decode": _share(after - before)}
    return found


def _seconds(engine: Engine, inputs: dict[str, Any], new: int, pad: int) -> tuple[float, np.ndarray]:
    """Seconds of one ``generate()``, and how many tokens each layer ran."""
    if engine.wrapped:
        skipper_of(engine.model).reset_counter()
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": pad} | engine.options
    with engine.context(), torch.inference_mode():
        _, took = timed_call(lambda: engine.model.generate(**inputs, **options))
    return took, np.array(skipper_of(engine.model).counter.ran if engine.wrapped else [1.0], dtype=float)


def _share(ran: np.ndarray) -> float:
    """Share of layer applications skipped; layer 0 runs for every token."""
    return float(1 - ran.sum() / (len(ran) * ran[0])) if ran[0] else 0.0


def timed_call(run: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and its seconds; an accelerator's work is inside of them."""
    synchronise()
    began = time.perf_counter()
    result = run()
    synchronise()
    return result, time.perf_counter() - began


def synchronise() -> None:
    """Waits for an accelerator, so that its work is inside the time measured."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    """Starts a new peak of memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts again
    except OSError:
        return


def peak_mb() -> float | None:
    """Peak memory since ``reset_peak``, in MiB: of the accelerator, else resident; None where nothing tells it."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)
