"""What a bench leaves: JSON with every turn's time, a table, a picture, and plain words on where skipping loses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from dlskip.bench.engines import PLAIN, SMALLEST, SMALLEST_COMPILED, WHOLE, WHOLE_COMPILED
from dlskip.bench.rows import Costs, expected
from dlskip.bench.timing import EngineTiming
from dlskip.plotting import theme

PHASES = {"prefill": "Prefill", "decode": "Decoding"}
_LOOKS = {
    "random": ("Random masks, each row its own", theme.RANDOM, "X"),
    "same_mask": ("Random masks, the same for all rows", "#e9a06a", "P"),
    "learned": ("Learned policy", theme.OURS, "o"),
    "cut": ("Statically cut backbone", "#75a23a", "s"),
    "compiled": ("Random masks and learned policy, compiled code", "#1a5276", "D"),
    "exit": ("Early-exit assisted generation", "#662b28", "<"),
}
_BOUND: dict[str, Any] = {"color": theme.RANDOM, "linewidth": 1.2, "linestyle": (0, (4, 2))}


def speed_rows(
    timings: Mapping[str, EngineTiming], batch: int, layers: int, costs: Costs | None = None
) -> list[dict[str, Any]]:  # fmt: skip
    """One batch size as tidy rows, one per engine and phase.

    ``speedup`` is against the same model at full depth: the wrapped one, compiled or not, or the plain backbone for
    what runs that.
    ``ideal`` is what the skipped share could give if nothing but layers were saved and nothing added, from the plain
    backbone's own costs: it takes ``rest + L c`` whole and ``rest + 2 c`` cut to two layers, hence c; ``efficiency`` is
    speed-up over ideal. Compiled code is held against its own costs, whole and cut to three layers. ``against_plain``
    compares with the plain backbone, ``against_cut`` with the cut model of the same depth. ``bound`` is for rows that
    differ: what is possible if a layer that n of them run costs what it takes for a batch of n (``costs``).
    """
    found = []
    cuts = {timing.share: timing for timing in timings.values() if timing.kind == "cut"}
    for phase in PHASES:
        plain, full, small = (timings[name].ms(phase) for name in (PLAIN, WHOLE, SMALLEST))
        bare_layer = (plain - small) / (layers - 2)
        compiled = full
        compiled_layer = 0.0
        if WHOLE_COMPILED in timings:
            compiled = timings[WHOLE_COMPILED].ms(phase)
            compiled_layer = (compiled - timings[SMALLEST_COMPILED].ms(phase)) / (layers - 3)
        for name, timing in timings.items():
            ms = timing.ms(phase)
            bare = timing.kind in ("plain", "cut", "exit")
            whole = plain if bare else compiled if timing.kind == "compiled" else full
            low, high = timing.spread(phase)
            row: dict[str, Any] = {
                "batch": batch, "phase": phase, "engine": name, "kind": timing.kind,
                "skipped": timing.skipped.get(phase), "ms": ms, "ms_low": low, "ms_high": high,
                "speedup": whole / ms, "against_plain": plain / ms, "peak_mb": timing.peak_mb,
            }  # fmt: skip
            if row["skipped"] is not None:
                own = (compiled, compiled_layer) if timing.kind == "compiled" else (plain, bare_layer)
                row["ideal"] = own[0] / (own[0] - row["skipped"] * layers * own[1])
                row["efficiency"] = row["speedup"] / row["ideal"]
            if timing.kind == "random" and costs is not None and row["skipped"] is not None:
                known = costs[phase]
                free = layers - 2
                saved = known[batch] - expected(known, batch, min(1.0, row["skipped"] * layers / free))
                row["bound"] = plain / (plain - free * saved)
            if timing.kind in ("random", "same_mask"):
                row["against_cut"] = cuts[timing.share].ms(phase) / ms
            found.append(row)
    return found


def overheads(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Time of the wrapped model at full depth over the plain backbone's, less 1, by batch and phase."""
    full = table[table["engine"] == WHOLE]
    found: dict[str, dict[str, float]] = {}
    for row in full.to_dict("records"):
        found.setdefault(str(row["batch"]), {})[str(row["phase"])] = float(1 / row["against_plain"] - 1)
    return found


def words(table: pd.DataFrame) -> list[str]:
    """What the measurement says, losses included."""
    said = []
    for batch, phase in dict.fromkeys(zip(table["batch"].tolist(), table["phase"].tolist(), strict=True)):
        part = table[(table["batch"] == batch) & (table["phase"] == phase)]
        over = float(1 / part.loc[part["engine"] == WHOLE, "against_plain"].iloc[0] - 1)
        masks = part[part["kind"].isin(["random", "same_mask", "learned"]) & (part["skipped"] > 0)]
        lost = masks[masks["speedup"] < 1]
        text = f"{PHASES[phase]}, batch {batch}: wrapping alone costs {100 * over:+.1f} %"
        if len(masks):
            best = masks.sort_values("speedup").iloc[-1]
            text += f"; best speed-up {best['speedup']:.2f} ({best['engine']}, {100 * best['skipped']:.0f} % skipped)"
        gain = masks[(masks["kind"] == "random") & (masks["speedup"] >= 1)]["skipped"]
        if len(lost):
            text += f"; SLOWER than full depth: {', '.join(lost['engine'])}"
        elif len(gain):
            text += f"; skipping pays from {100 * gain.min():.0f} % on"
        code = part[(part["kind"] == "compiled") & (part["engine"] != SMALLEST_COMPILED)]
        if phase == "decode" and len(code):
            times = ", ".join(f"{r.against_plain:.2f} ({100 * r.skipped:.0f} % skipped)" for r in code.itertuples())
            text += f"; compiled, times the plain backbone's speed: {times}"
        said.append(text.replace("-", "−", 1) if over < 0 else text)
    return said


def write_report(
    table: pd.DataFrame, timings: Mapping[int, Mapping[str, EngineTiming]], about: Mapping[str, Any], out: Path
) -> None:
    """Writes ``bench.json``, ``bench.csv``, ``bench.md`` and ``bench.svg`` into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    turns = {
        str(batch): {name: {"prefill": s.prefill, "decode": s.decode} for name, s in by_name.items()}
        for batch, by_name in timings.items()
    }
    clean = table.astype(object).where(table.notna(), None)
    document = {"about": dict(about), "overhead": overheads(table), "words": words(table),
                "rows": clean.to_dict("records"), "seconds": turns}  # fmt: skip
    (out / "bench.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    table.to_csv(out / "bench.csv", index=False, float_format="%.5g")
    (out / "bench.md").write_text(markdown(table, about), encoding="utf-8")
    with theme.applied():
        (out / "bench.svg").write_text(theme.svg(draw_speed_ups(table)), encoding="utf-8")


def markdown(table: pd.DataFrame, about: Mapping[str, Any]) -> str:
    """The table for people, with what it was measured on."""
    shown = table.assign(
        ms=[f"{r.ms:.1f} [{r.ms_low:.1f}, {r.ms_high:.1f}]" for r in table.itertuples()],
        skipped=(100 * table["skipped"]).round(1),
    )
    kept = ["batch", "phase", "engine", "skipped", "ms", "speedup", "ideal", "efficiency", "bound", "against_plain",
            "against_cut", "peak_mb"]  # fmt: skip
    names = {"skipped": "skipped %", "ms": "ms, median [quartiles]", "against_plain": "against plain",
             "bound": "bound by rows", "against_cut": "against cut", "peak_mb": "peak MiB"}  # fmt: skip
    frame = shown.reindex(columns=kept).rename(columns=names)
    body = frame.astype(object).where(frame.notna(), None).to_markdown(index=False, floatfmt=".2f", missingval="–")
    note = "; ".join(f"{key}: {value}" for key, value in about.items())
    return "\n".join(
        [f"**Speed under `generate()`** ({note})", "", *(f"- {line}" for line in words(table)), "", body, ""]
    )


def draw_speed_ups(table: pd.DataFrame) -> Any:
    """Speed-up against skipped share, by phase and batch size, with what that share could give at best."""
    batches: Sequence[int] = list(dict.fromkeys(table["batch"]))
    figure, grid = plt.subplots(len(PHASES), len(batches), figsize=(4.4 * len(batches), 7.4), squeeze=False)
    for line, phase in zip(grid, PHASES, strict=True):
        for axes, batch in zip(line, batches, strict=True):
            axes.set_title(f"{PHASES[phase]}, batch {batch}")
            _panel(axes, table[(table["batch"] == batch) & (table["phase"] == phase)])
    handles = [
        plt.Line2D([], [], color=colour, marker=mark, linestyle="none", label=label)
        for kind, (label, colour, mark) in _LOOKS.items() if kind in set(table["kind"])
    ]  # fmt: skip
    handles.append(plt.Line2D([], [], color=theme.INK, label="possible: only the layers' time is saved"))
    if "bound" in table and table["bound"].notna().any():
        handles.append(plt.Line2D([], [], **_BOUND, label="possible for rows that differ, at a layer's cost for them"))
    figure.legend(handles=handles, loc="outside upper left", ncols=min(3, len(batches)), fontsize=9)
    return figure


def _panel(axes: Axes, part: pd.DataFrame) -> None:
    line = part[part["kind"] != "compiled"].dropna(subset=["ideal"]).sort_values("skipped")
    axes.plot(100 * line["skipped"], line["ideal"], color=theme.INK, linewidth=1.2)
    if "bound" in part and part["bound"].notna().any():
        bound = part.dropna(subset=["bound"]).sort_values("skipped")
        axes.plot([0, *100 * bound["skipped"]], [1, *bound["bound"]], **_BOUND)
    axes.axhline(1, color=theme.MUTED, linewidth=1, linestyle=(0, (2, 2)))
    for kind, (_, colour, mark) in _LOOKS.items():
        of = part[(part["kind"] == kind) & ~part["engine"].isin([SMALLEST, SMALLEST_COMPILED])]
        across = 100 * of["skipped"].astype(float).fillna(0.0)
        error = np.abs(np.array([of["ms"] / of["ms_high"], of["ms"] / of["ms_low"]]) - 1) * of["speedup"].to_numpy()
        axes.errorbar(across, of["speedup"], yerr=error, color=colour, marker=mark, linestyle="none", elinewidth=0.8)
    axes.set(xlabel="layer applications skipped, %", ylabel="time at full depth / time measured")
    axes.set_ylim(bottom=0)
