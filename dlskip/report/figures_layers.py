"""Heat maps of which layers are skipped, by the prompt's decision and by decoded tokens: by task, and by method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dlskip.methods.names import title as method_title
from dlskip.report import style
from dlskip.report.figures_common import Picture, facts, kinds
from dlskip.report.stats import Condition
from dlskip.report.view import MIN_SKIP, View, batch_label, short

PHASES = {"prompt": "prompt", "decode": "decoding"}


def heatmap(view: View, axes: Axes) -> None:
    """Skip rate of each layer on each task, ours at the headline setting; of translations, of decoding too."""
    ours = view.headline.ours
    axes.set_title(f"Which layers are skipped\nours, {batch_label(ours.batch)}, {ours.setting.label()}")
    named = {(task, "prompt"): short(task) for task in view.nlu}
    named |= {(t, phase): f"{short(t)}, {said}" for phase, said in PHASES.items() for t in view.mt}
    rates = {label: _rates(view, ours, [task], phase) for (task, phase), label in named.items()}
    remarks = [f"{series.mean():.0f} %" if len(series) else "not run" for series in rates.values()]
    _mesh(axes, pd.DataFrame(rates).T, list(rates), remarks, bar=True)


def per_method(view: View) -> Picture:
    """Skip rate of each layer by each method, at the setting whose share is nearest to the headline's."""
    found = [
        (kind, phase) for kind in kinds(view) for phase in PHASES if kind.name == "translation" or phase != "decode"
    ]
    methods = [m for m in view.compared if m != "vanilla"]
    figure, grid = style.panels(len(found), 2, 7.6, 0.36 * len(methods) + 1.1, room=0.4)
    for axes, (kind, phase) in zip(grid, found, strict=True):
        axes.set_title(f"{kind.title[:1].upper()}{kind.title[1:]}: {PHASES[phase]}")
        chosen = {m: _chosen(view, m, kind.tasks) for m in methods}
        rates = {m: _rates(view, at, kind.tasks, phase) for m, at in chosen.items()}
        remarks = [_remark(view, at, kind.tasks) for at in chosen.values()]
        _mesh(axes, pd.DataFrame(rates).T, [method_title(m) for m in methods], remarks, bar=phase == found[-1][1])
    style.note(
        figure, facts(view, view.tasks, "at the right: setting, and share of all layer applications that are skipped; "
                      "settings as near as they get to ours at the headline"),
    )  # fmt: skip
    alt = (
        "Heat maps of the skip rate per layer and method, at settings that skip about as much as ours at the headline. "
        "The file reports/layers.csv holds the numbers."
    )
    caption = "Static methods skip a layer always or never; ours and random differ between samples and tokens."
    return Picture(figure, alt, caption)


def _chosen(view: View, method: str, tasks: Sequence[str]) -> Condition | None:
    """A method's setting whose measured share is nearest to that of ours at the headline; None if none was run."""
    goal = view.one(view.headline.ours, "skip_ratio", tasks)
    if method == "ours":
        return None if np.isnan(goal) else view.headline.ours
    return view.nearest(method, MIN_SKIP if np.isnan(goal) else goal, tasks)


def _remark(view: View, at: Condition | None, tasks: Sequence[str]) -> str:
    return f"{at.setting.label()}: {view.one(at, 'skip_ratio', tasks):.0f} %" if at else "not run"


def _rates(view: View, at: Condition | None, tasks: Sequence[str], phase: str) -> pd.Series:
    """Share of decisions that skip each layer in %, mean over tasks and seeds; indexed by layer, empty if not run."""
    if at is None:
        return pd.Series(dtype=float)
    rows = view.layers[view.layers["phase"] == phase]
    rows = rows[(rows["method"] == at.method) & (rows["batch"] == at.batch) & rows["task"].isin(list(tasks))]
    for knob, number in at.setting.columns().items():
        rows = rows[rows[knob].isna() if number is None else rows[knob] == number]
    return 100 * rows.groupby(["task", "layer"])["skip_rate"].mean().groupby("layer").mean().astype(float)


def _mesh(axes: Axes, rates: pd.DataFrame, labels: Sequence[str], remarks: Sequence[str], *, bar: bool) -> None:
    if rates.empty or rates.isna().all(axis=None):
        style.blank(axes)
        return
    layers = rates.shape[1]
    shown = axes.imshow(rates.to_numpy(), cmap=style.HEAT, vmin=0, vmax=100, aspect="auto", interpolation="none")
    axes.set_yticks(range(len(rates)), [style.short(label) for label in labels], color=style.INK)
    axes.set_yticks(np.arange(len(rates) - 1) + 0.5, minor=True)
    axes.set_xticks(range(0, layers, 5 if layers > 12 else 1))
    axes.grid(visible=False)
    axes.grid(visible=True, which="minor", axis="y", color=style.PAPER, linewidth=3)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("layer")
    for y, remark in enumerate(remarks):
        axes.text(layers - 0.2, y, style.short(remark, 13), va="center", fontsize=8.5, color=style.INK)
    if bar:
        pad = 0.03 + 0.0115 * max(map(len, style.short(max(remarks, key=len), 13).split("\n")))
        scale = axes.figure.colorbar(shown, ax=axes, location="right", fraction=0.035, pad=pad, ticks=[0, 50, 100])
        scale.set_label("decisions that skip, %", fontsize=9)
        scale.outline.set_visible(False)
        if scale.solids is not None:
            scale.solids.set_rasterized(True)
