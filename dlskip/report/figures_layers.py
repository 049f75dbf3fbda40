"""Maps of which layers are skipped: by task, by method, and token by token of one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dlskip.methods.names import title as method_title
from dlskip.report import style
from dlskip.report.figures_common import Picture, facts
from dlskip.report.stats import Condition
from dlskip.report.view import MIN_SKIP, View, batch_label, short

LOST = "\N{REPLACEMENT CHARACTER}"  # a token that is part of a character


def phases(view: View, *, decodes: bool) -> dict[str, str]:
    """The phases whose decisions were recorded, and their names; old results have none of decoding."""
    known = decodes and (view.layers["phase"] == "decode").any()
    return {"prompt": "prompt"} | ({"decode": "decoding"} if known else {})


def heatmap(view: View, axes: Axes) -> None:
    """Skip rate of each layer on each task, ours at the headline setting; of translations, of decoding too."""
    ours = view.headline.ours
    axes.set_title(f"Which layers are skipped\nOurs, {batch_label(ours.batch)}, {ours.setting.label()}")
    named = {(task, "prompt"): short(task) for task in view.nlu}
    named |= {(t, p): f"{short(t)}, {said}" for p, said in phases(view, decodes=True).items() for t in view.mt}
    rates = {label: _rates(view, ours, [task], phase) for (task, phase), label in named.items()}
    remarks = [f"{series.mean():.0f} %" if len(series) else "not run" for series in rates.values()]
    layer_map(axes, pd.DataFrame(rates).T, list(rates), remarks, bar=True)


def per_method(view: View) -> Picture:
    """Skip rate of each layer by each method, at the setting whose share is nearest to the headline's."""
    found = [(group, p, said) for group in view.groups
             for p, said in phases(view, decodes=group.phase == "decode").items()]  # fmt: skip
    methods = view.skipping
    figure, grid = style.panels(len(found), 2, 7.6, 0.36 * len(methods) + 1.1, room=0.4)
    for axes, (group, phase, said) in zip(grid, found, strict=True):
        axes.set_title(f"{group.heading}\n{said}")
        chosen = {m: _chosen(view, m, group.tasks) for m in methods}
        rates = {m: _rates(view, at, group.tasks, phase) for m, at in chosen.items()}
        shares = [(at, at and view.share(at, group.tasks)) for at in chosen.values()]
        remarks = [f"{at.setting.label()}: {share:.0f} %" if at else "not run" for at, share in shares]
        layer_map(axes, pd.DataFrame(rates).T, [method_title(m) for m in methods], remarks, bar=axes is grid[-1])
    style.note(
        figure, facts(view, view.tasks, "at the right: setting, and share of all layer applications that are skipped; "
                      "settings as near as they get to ours at the headline"),
    )  # fmt: skip
    return Picture(
        figure, "Heat maps of the skip rate per layer and method, at settings that skip about as much as ours at the "
        "headline. The file reports/layers.csv holds the numbers.",
        "Static methods skip a layer always or never; ours and random differ between samples and tokens.",
    )  # fmt: skip


def _chosen(view: View, method: str, tasks: Sequence[str]) -> Condition | None:
    """A method's setting whose measured share is nearest to that of ours at the headline; None if none was run."""
    goal = view.share(view.headline.ours, tasks)
    if method == "ours":
        return None if np.isnan(goal) else view.headline.ours
    return view.nearest(method, MIN_SKIP if np.isnan(goal) else goal, tasks)


def _rates(view: View, at: Condition | None, tasks: Sequence[str], phase: str) -> pd.Series:
    """Share of decisions that skip each layer in %, mean over tasks and seeds; indexed by layer, empty if not run."""
    if at is None:
        return pd.Series(dtype=float)
    rows = view.layers[view.layers["phase"] == phase]
    rows = rows[(rows["method"] == at.method) & (rows["batch"] == at.batch) & rows["task"].isin(list(tasks))]
    for knob, number in at.setting.columns().items():
        rows = rows[rows[knob].isna() if number is None else rows[knob] == number]
    return 100 * rows.groupby(["task", "layer"])["skip_rate"].mean().groupby("layer").mean().astype(float)


def layer_map(axes: Axes, rates: pd.DataFrame, labels: Sequence[str], remarks: Sequence[str], *, bar: bool) -> None:
    """A row per label, a field per layer, filled by its rate in % (rows, layers); the remarks at the right edge."""
    if rates.empty or rates.isna().all(axis=None):
        style.blank(axes)
        return
    layers, remarks = rates.shape[1], [style.short(remark, 15) for remark in remarks]
    shown = axes.imshow(rates.to_numpy(), cmap=style.HEAT, vmin=0, vmax=100, aspect="auto", interpolation="none")
    axes.set_yticks(range(len(rates)), [style.short(label) for label in labels], color=style.INK)
    axes.set_yticks(np.arange(len(rates) - 1) + 0.5, minor=True)
    axes.set_xticks(range(0, layers, 5 if layers > 12 else 1))
    axes.set_xlabel("layer")
    axes.tick_params(which="both", length=0)
    axes.grid(visible=False)
    axes.grid(visible=True, which="minor", axis="y", color=style.PAPER, linewidth=2.5)
    axes.spines[:].set_visible(False)
    for y, remark in enumerate(remarks):
        axes.text(layers - 0.2, y, remark, va="center", fontsize=8.5, color=style.INK)
    if bar:
        pad = 0.03 + 0.0115 * max(len(line) for remark in remarks for line in remark.split("\n"))
        scale = axes.figure.colorbar(shown, ax=axes, location="right", fraction=0.035, pad=pad, ticks=[0, 50, 100])
        scale.set_label("decisions that skip, %", fontsize=9)
        scale.outline.set_visible(False)
        if scale.solids is not None:
            scale.solids.set_rasterized(True)


def headline_traces(view: View) -> list[dict[str, Any]]:
    """The translated sentences of ours at the headline setting."""
    wanted = view.headline.ours.setting.columns()
    found = view.found.traces.get(view.backbone, [])
    return [t for t in found if {knob: t[knob] for knob in wanted} == wanted and len(t["tokens"]) > 1]


def shown(traces: list[dict[str, Any]]) -> dict[str, Any]:
    """The sentence of the figure: one whose tokens are whole characters, and long, if it fits."""
    return max(traces, key=lambda t: (LOST not in "".join(t["tokens"]), len(t["tokens"]) <= 26, len(t["tokens"])))


def word(token: str) -> str:
    """A token as it is shown: a dot for a part of a character, and spaces can be seen."""
    return token.replace(LOST, "·").strip() or "␣"


def token_depth(view: View) -> Picture:
    """Which layers ran for each token of one sentence; at the right, how many."""
    traces = headline_traces(view)
    alt = "Chart of which layers ran for each token of one translated sentence."
    if not traces:
        figure, (axes,) = style.panels(1, 1, 8, 3)
        axes.set_title("Layers run per token")
        style.blank(axes)
        return Picture(figure, alt, "No translated sentence at this setting has more than one token to show.")
    trace = shown(traces)
    ran = pd.DataFrame(trace["ran"], dtype=float)  # (tokens, layers)
    figure, (axes,) = style.panels(1, 1, 8, 0.21 * len(ran) + 0.5)
    depths = [f"{total:.0f}" for total in ran.sum(axis=1)]
    layer_map(axes, 100 * ran, [word(token) for token in trace["tokens"]], depths, bar=False)
    axes.set_title(
        f"Layers run per token, of {ran.shape[1]}\n{short(trace['task'])}, {view.headline.ours.setting.label()}"
    )
    style.note(figure, "filled: the layer ran; pale: it was skipped; at the right: layers run; <prompt>: one decision")
    return Picture(figure, alt, "One row per token that decides; the prompt decides once.")
