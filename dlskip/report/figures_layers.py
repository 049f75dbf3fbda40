"""Heat maps of which layers are skipped: by ours on each task, and by each method at about the same share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlskip.methods.names import title as method_title
from dlskip.report import style
from dlskip.report.figures_common import facts, kinds
from dlskip.report.stats import Run
from dlskip.report.view import MIN_SKIP, View, batch_label, short


def per_task(view: View) -> Figure:
    """Skip rate of each layer on each task, ours at the headline setting."""
    figure, axes = style.panels(figsize=(9, 0.42 * len(view.tasks) + 1.9))
    heatmap(view, axes)
    return figure


def heatmap(view: View, axes: Axes) -> None:
    """The same within given axes (the prompt's decision)."""
    run = view.headline.ours
    axes.set_title(f"Which layers are skipped (ours, {batch_label(run.batch)}, {run.setting.label()})")
    rates = pd.DataFrame({task: _rates(view, run, [task]) for task in view.tasks}).T
    if rates.empty or rates.isna().all(axis=None):
        style.blank(axes)
        return
    remarks = ["" if math.isnan(mean) else f"{mean:.0f} %" for mean in rates.mean(axis=1)]
    _mesh(axes, rates, [short(t) for t in view.tasks], remarks, bar=True)
    if view.nlu and view.mt:
        axes.axhline(len(view.nlu), color="white", linewidth=4)


def per_method(view: View) -> Figure:
    """Skip rate of each layer by each method, at the setting whose share is nearest to the headline's."""
    found = kinds(view)
    methods = [m for m in view.compared if m != "vanilla"]
    figure, grid = style.panels(1, len(found), figsize=(7.6 * len(found), 0.4 * len(methods) + 2.2), squeeze=False)
    for i, (axes, kind) in enumerate(zip(grid.flat, found, strict=True)):
        axes.set_title(f"Layers skipped by each method, {kind.title}")
        chosen = {m: _chosen(view, m, kind.tasks) for m in methods}
        rates = pd.DataFrame({m: _rates(view, run, kind.tasks) for m, run in chosen.items()}).T
        if rates.empty or rates.isna().all(axis=None):
            style.blank(axes)
            continue
        remarks = [_remark(view, chosen[m], kind.tasks) for m in methods]
        labels = [method_title(m) for m in methods] if i == 0 else [""] * len(methods)
        _mesh(axes, rates, labels, remarks, bar=i == len(found) - 1)
    style.note(
        figure, facts(view, view.tasks, "the prompt's decision", "at the right: setting, and share of all decisions "
                      "that skip; settings as near as they get to ours at the headline"),
    )  # fmt: skip
    return figure


def _chosen(view: View, method: str, tasks: Sequence[str]) -> Run | None:
    """A method's setting whose measured share is nearest to that of ours at the headline; None if none was run."""
    goal = view.one(view.headline.ours, "skip_ratio", tasks)
    if method == "ours":
        return None if math.isnan(goal) else view.headline.ours
    return view.nearest(method, MIN_SKIP if math.isnan(goal) else goal, tasks)


def _remark(view: View, run: Run | None, tasks: Sequence[str]) -> str:
    if run is None:
        return "not run"
    sign = "t=" if run.method in ("ours", "random") else ""
    return f"{sign}{run.setting.short_label()}: {view.one(run, 'skip_ratio', tasks):.0f} %"


def _rates(view: View, run: Run | None, tasks: Sequence[str]) -> pd.Series:
    """Share of samples that skip each layer in %, mean over tasks and seeds; indexed by layer, empty if not run."""
    if run is None:
        return pd.Series(dtype=float)
    rows = view.layers[view.layers["phase"] == "prompt"]
    rows = rows[(rows["method"] == run.method) & (rows["batch"] == run.batch)]
    for knob, number in run.setting.columns().items():
        rows = rows[rows[knob].isna() if number is None else rows[knob] == number]
    rows = rows[rows["task"].isin(list(tasks))]
    return 100 * rows.groupby(["task", "layer"])["skip_rate"].mean().groupby("layer").mean().astype(float)


def _mesh(axes: Axes, rates: pd.DataFrame, labels: Sequence[str], remarks: Sequence[str], *, bar: bool) -> None:
    layers = rates.shape[1]
    mesh = axes.pcolormesh(
        np.arange(layers + 1) - 0.5, np.arange(len(rates) + 1), rates.to_numpy(), cmap=style.HEAT, vmin=0, vmax=100,
        edgecolor="white", linewidth=0.8,
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(rates)) + 0.5, labels, color=style.INK)
    axes.set_xticks(range(0, layers, 5 if layers > 12 else 1))
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("layer")
    for y, remark in enumerate(remarks):
        axes.text(layers - 0.2, y + 0.5, remark, va="center", fontsize=9, color=style.INK)
    if bar:
        pad = 0.03 + 0.012 * max(map(len, remarks), default=0)
        scale = axes.figure.colorbar(mesh, ax=axes, location="right", fraction=0.035, pad=pad, ticks=[0, 50, 100])
        scale.set_label("samples that skip, %", fontsize=9)
        scale.outline.set_visible(False)
