"""Figures of what was measured: quality and speed against the skipped share, and which layers are skipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlskip.report import style
from dlskip.report.stats import Run
from dlskip.report.view import VANILLA, View, batch_label, short

SHARE = "layer applications skipped, %"
_LOOKS = {"ours": style.OURS, "random": style.RANDOM}


def draw(view: View, directory: Path) -> None:
    """Writes ``headline``, ``quality_vs_skip``, ``layer_heatmap`` and ``speed``."""
    style.save(headline(view), directory, "headline")
    style.save(quality_vs_skip(view), directory, "quality_vs_skip")
    figure, axes = style.panels(figsize=(9, 0.42 * len(view.tasks) + 1.9))
    layer_heatmap(view, axes)
    style.save(figure, directory, "layer_heatmap")
    style.save(speed(view), directory, "speed")


def headline(view: View) -> Figure:
    """Wide picture: average quality against skipped share, and beside it which layers each task skips."""
    figure, (left, right) = style.panels(
        1, 2, figsize=(13.2, 4.9), gridspec_kw={"width_ratios": [1, 1.12], "wspace": 0.04}
    )
    tasks, name = (view.nlu, "macro F1, %") if view.nlu else (view.mt, "BLEU")
    _trade(view, left, tasks, intervals=True, batches=[view.headline.ours.batch], labels=True)
    kind = f"{len(view.nlu)} understanding tasks" if view.nlu else f"{len(view.mt)} translation tasks"
    left.set(title=f"Quality against skipped layers, mean of {kind}", ylabel=name, xlabel=SHARE)
    layer_heatmap(view, right)
    counts = sorted({view.n.get(t, 0) for t in tasks})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    seeds = len(view.found.params.grid.seeds)
    style.note(
        figure,
        f"{view.backbone}; {n} test examples per task, {seeds} {'seed' if seeds == 1 else 'seeds'}; "
        "t: threshold; whiskers and band: 95 % bootstrap over examples; "
        "random = chance masks at ours' measured rate, same weights",
    )
    return figure


def _trade(
    view: View, axes: Axes, tasks: Sequence[str], *, intervals: bool, batches: Sequence[str], labels: bool
) -> None:
    """Quality against skipped share: vanilla's line, ours at each threshold, the random control."""
    metric = view.quality(tasks[0])
    full = view.one(VANILLA, metric, tasks)
    if not math.isnan(full):
        axes.axhline(full, color=style.VANILLA, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1)
        if intervals:
            band = view.bootstrap.mean(VANILLA, tasks)
            axes.axhspan(band.low, band.high, color=style.VANILLA, alpha=0.06, linewidth=0)
    drawn: list[tuple[list[Run], dict[str, Any]]]
    drawn = [(view.runs("random", "per_sample"), {"color": style.RANDOM, "marker": "X", "linestyle": "-"})]
    drawn = [(view.runs("ours", b), style.BATCH[b]) for b in reversed(batches)] + drawn
    ends: dict[str, tuple[float, float]] = {}
    for runs, look in drawn:
        points = [(view.one(r, "skip_ratio", tasks), view.one(r, metric, tasks), r) for r in runs]
        points = sorted((p for p in points if not math.isnan(p[1])), key=lambda p: p[0])
        if not points:
            continue
        x, y, kept = zip(*points, strict=True)
        if intervals:
            bands = [view.bootstrap.mean(r, tasks) for r in kept]
            axes.vlines(x, [b.low for b in bands], [b.high for b in bands], color=look["color"], linewidth=1, alpha=0.5)
        axes.plot(x, y, markeredgewidth=1.1, **look)
        ends[runs[0].method] = (x[-1], y[-1])
        if labels and runs[0].method == "ours":
            for px, group in groupby(points, key=lambda p: round(p[0])):  # thresholds that skip alike share a label
                same = list(group)
                text = "t=" + ", ".join(run.setting for _, _, run in same)
                axes.annotate(
                    text, (px, same[0][1]), (-5, 7), textcoords="offset points", fontsize=8, ha="right",
                    color=look["color"], path_effects=style.HALO,
                )  # fmt: skip
    axes.margins(x=0.08, y=0.12)
    left, right = axes.get_xlim()
    if not ends:
        style.blank(axes, "not run")
        return
    axes.set_xlim(min(0.0, left), right)
    if labels:
        _label_lines(axes, full, ends)


def _label_lines(axes: Axes, full: float, ends: dict[str, tuple[float, float]]) -> None:
    """Names the lines at their right ends, kept apart where they come close."""
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    names = [(y, method, _LOOKS[method]) for method, (_, y) in ends.items()]
    if not math.isnan(full):
        names.append((full, "vanilla", style.VANILLA))
    names.sort()
    least, heights = 0.06 * (top - bottom), [y for y, _, _ in names]
    for i in range(1, len(heights)):
        if heights[i] - heights[i - 1] < least:
            heights[i] = heights[i - 1] + least
    axes.set_xlim(left, right + 0.17 * (right - left))
    for height, (_, name, colour) in zip(heights, names, strict=True):
        axes.annotate(
            name, (right, height), (4, 0), textcoords="offset points", color=colour, fontweight="bold", va="center",
            path_effects=style.HALO,
        )  # fmt: skip


def quality_vs_skip(view: View) -> Figure:
    """Small multiples: the averages and every task, all batch rules, the random control."""
    panels = [(f"Mean macro F1, {len(view.nlu)} tasks", view.nlu)] * bool(view.nlu) + [
        (short(t), [t]) for t in view.nlu
    ]
    panels += [(f"Mean BLEU, {len(view.mt)} tasks", view.mt)] * (len(view.mt) > 1) + [(short(t), [t]) for t in view.mt]
    columns = min(5, math.ceil(len(panels) / 2)) if len(panels) > 3 else len(panels)
    lines = math.ceil(len(panels) / columns)
    figure, grid = style.panels(lines, columns, figsize=(3.0 * columns + 0.4, 2.7 * lines + 0.9), squeeze=False)
    for axes, (title, tasks) in zip(grid.flat, panels, strict=False):
        _trade(view, axes, tasks, intervals=False, batches=view.batches, labels=False)
        axes.set_title(title)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    figure.supxlabel(f"{SHARE}; upright: macro F1 in % (understanding), BLEU (translation)", fontsize=9.5)
    handles = [plt.Line2D([], [], **style.BATCH[b], label=f"ours, {batch_label(b)}") for b in view.batches]
    handles += [
        plt.Line2D([], [], color=style.RANDOM, marker="X", label="random, same measured rate"),
        plt.Line2D([], [], color=style.VANILLA, linestyle=(0, (5, 3)), label="vanilla, nothing skipped"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=6, fontsize=9, handlelength=2.2)
    return figure


def layer_heatmap(view: View, axes: Axes) -> None:
    """Skip rate of each layer on each task at the headline setting (the prompt's decision)."""
    run, rows = view.headline.ours, view.layers
    rows = rows[(rows["method"] == run.method) & (rows["setting"] == run.setting) & (rows["batch"] == run.batch)]
    axes.set_title(f"Which layers are skipped (ours, {batch_label(run.batch)}, threshold {run.setting})")
    if rows.empty:
        style.blank(axes, "not run")
        return
    rates = 100 * rows.pivot_table(index="task", columns="layer", values="skip_rate").reindex(view.tasks)
    layers = rates.shape[1]
    mesh = axes.pcolormesh(
        np.arange(layers + 1) - 0.5, np.arange(len(rates) + 1), rates.to_numpy(), cmap=style.HEAT, vmin=0, vmax=100,
        edgecolor="white", linewidth=0.8,
    )  # fmt: skip
    axes.invert_yaxis()
    if view.nlu and view.mt:
        axes.axhline(len(view.nlu), color="white", linewidth=4)
    axes.set_yticks(np.arange(len(rates)) + 0.5, [short(t) for t in rates.index], color=style.INK)
    axes.set_xticks(range(0, layers, 5 if layers > 12 else 1))
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("layer (the first and the last always run)")
    for y, mean in enumerate(rates.mean(axis=1)):
        if not math.isnan(mean):
            axes.text(layers - 0.2, y + 0.5, f"{mean:.0f} %", va="center", fontsize=9, color=style.INK)
    bar = axes.figure.colorbar(mesh, ax=axes, location="right", fraction=0.035, pad=0.075, ticks=[0, 50, 100])
    bar.set_label("samples that skip, %", fontsize=9)
    bar.outline.set_visible(False)


def speed(view: View) -> Figure:
    """Measured speed-up against skipped share, with the line that skipping could reach at most."""
    kinds = [(n, t) for n, t in (("Understanding", view.nlu), ("Translation", view.mt)) if t]
    figure, grid = style.panels(1, len(kinds), figsize=(5.2 * len(kinds), 4.2), squeeze=False)
    for axes, (name, tasks) in zip(grid.flat, kinds, strict=True):
        looks = [(view.runs("ours", b), style.BATCH[b] | {"label": f"ours, {batch_label(b)}"}) for b in view.batches]
        random = {"color": style.RANDOM, "marker": "X", "label": "random, per sample"}
        points: list[tuple[float, float]] = []
        for runs, look in [*looks, (view.runs("random", "per_sample"), random)]:
            found = pd.DataFrame([_speed_point(view, r, tasks) for r in runs], columns=["x", "y"]).dropna()
            axes.plot(found["x"], found["y"], **(look | {"linestyle": "none"}))
            points += list(found.itertuples(index=False, name=None))
        axes.set_title(name)
        if not points:
            style.blank(axes, "not run")
            continue
        most = max(x for x, _ in points) + 3
        share = np.linspace(0, most, 100)
        axes.plot(share, 100 / (100 - share), color=style.INK, linewidth=1.2)
        axes.annotate(
            "1 / (1 − s)", (share[70], 100 / (100 - share[70])), (-6, 8), textcoords="offset points", ha="right",
            fontsize=9,
        )  # fmt: skip
        axes.axhline(1, color=style.MUTED, linewidth=1, linestyle=(0, (5, 3)))
        axes.set(xlabel=SHARE, ylabel="time at full depth / time measured", xlim=(0, most))
    grid.flat[0].legend(loc="upper left", fontsize=8.5)
    return figure


def _speed_point(view: View, run: Run, tasks: Sequence[str]) -> tuple[float, float]:
    return view.one(run, "skip_ratio", tasks), view.one(run, "speedup", tasks)
