"""``dlskip bench``: loads the model twice, with skipping and without, and times both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import dlskip
from dlskip import provenance
from dlskip.bench import report, waits
from dlskip.bench.engines import SMALLEST, Engine, engines
from dlskip.bench.rows import layer_costs
from dlskip.bench.timing import EngineTiming, time_engines
from dlskip.errors import DlskipError
from dlskip.skip import skipper_of

PROFILED_STEPS = 8


def bench(
    plain: Any,
    model: Any,
    prompts: Sequence[list[int]],
    out: Path,
    *,
    batches: Sequence[int],
    shares: Sequence[float],
    thresholds: Sequence[float],
    tokens: int,
    repeats: int,
    pad: int,
    exit_at: int | None = None,
    compile: bool = False,
    profile: bool = False,
    about: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """Times every engine at every batch size and writes the report; returns its rows.

    Args:
        plain: The backbone without skipping.
        model: The same with skipping attached.
        prompts: Token ids, at least one; they are repeated to fill a batch.
        out: Directory of the report.
        batches, shares, thresholds: What is measured (see ``engines``).
        tokens: New tokens after the first.
        repeats: Turns.
        pad: Padding id.
        exit_at: Layers of the early-exit drafter.
        compile: Time compiled code too.
        profile: Profile decoding steps of the first batch size on CUDA too (see ``dlskip.bench.waits``).
        about: What the report's head says besides what is measured here.

    Raises:
        DlskipError: There is no prompt, or nothing to profile as the model is not on CUDA.
    """
    if not prompts:
        raise DlskipError("no prompt", where="bench")
    if profile:
        waits.require_cuda(model)
    began = time.time()
    layers = skipper_of(model).num_layers
    timings: dict[int, dict[str, EngineTiming]] = {}
    rows: list[dict[str, Any]] = []
    for batch in batches:
        chosen = [prompts[i % len(prompts)] for i in range(batch)]
        todo = engines(plain, model, shares, thresholds, batch, exit_at=exit_at, compile=compile)
        timings[batch] = time_engines(todo, chosen, pad=pad, tokens=tokens, repeats=repeats)
        costs = None
        if batch > 1:
            small = next(engine.model for engine in todo if engine.name == SMALLEST)
            costs = layer_costs(plain, small, chosen, pad)
        rows += report.speed_rows(timings[batch], batch, layers, costs)
        known = (about or {}) | {
            "model": type(model).__name__, "layers": layers, "dtype": str(model.dtype).removeprefix("torch."),
            "device": provenance.device_name(model.device.type), "threads": torch.get_num_threads(), "tokens": tokens,
            "prompt tokens": sorted({len(p) for p in prompts}), "turns": repeats, "torch": torch.__version__,
            "dlskip": dlskip.__version__, "seconds": round(time.time() - began),
        }  # fmt: skip
        report.write_report(pd.DataFrame(rows), timings, known, out)  # what is there, should a later batch fail
        if profile and batch == batches[0]:
            chosen_engines = [engine for engine in todo if engine.wrapped and engine.cut_out is None]
            seen = [_profiled(engine, batch, timings[batch][engine.name], chosen, pad) for engine in chosen_engines]
            waits.write_waits(seen, known, out)
    return pd.DataFrame(rows)


def _profiled(
    engine: Engine, batch: int, timing: EngineTiming, prompts: Sequence[list[int]], pad: int
) -> tuple[waits.Waits, waits.Profile]:  # fmt: skip
    with engine.context():
        profile = waits.profile_steps(engine.model, prompts, pad, PROFILED_STEPS)
    return waits.summed(engine.name, batch, timing.skipped["decode"], profile), profile
