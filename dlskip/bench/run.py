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
from dlskip.bench import report
from dlskip.bench.engines import engines
from dlskip.bench.measure import Sample, measure
from dlskip.errors import DlskipError
from dlskip.skip import skipper_of


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
        about: What stands in the report's head beside what is measured here.

    Raises:
        DlskipError: There is no prompt.
    """
    if not prompts:
        raise DlskipError("no prompt", where="bench")
    began, layers = time.time(), skipper_of(model).num_layers
    samples: dict[int, dict[str, Sample]] = {}
    rows: list[dict[str, Any]] = []
    for batch in batches:
        chosen = [prompts[i % len(prompts)] for i in range(batch)]
        todo = engines(plain, model, shares, thresholds, batch, exit_at=exit_at, compile=compile)
        samples[batch] = measure(todo, chosen, pad=pad, tokens=tokens, repeats=repeats)
        rows += report.rows(samples[batch], batch, layers)
    table = pd.DataFrame(rows)
    known = {
        "model": type(model).__name__, "layers": layers, "dtype": str(model.dtype).removeprefix("torch."),
        "device": provenance.device_name(model.device.type), "threads": torch.get_num_threads(), "tokens": tokens,
        "prompt tokens": sorted({len(p) for p in prompts}), "turns": repeats, "torch": torch.__version__,
        "dlskip": dlskip.__version__, "seconds": round(time.time() - began),
    }  # fmt: skip
    report.write(table, samples, (about or {}) | known, out)
    return table
