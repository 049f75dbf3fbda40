"""Figures of the ablations: quality and skipped share of each beside ours, and what a price can choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dlskip.methods.names import title as method_title
from dlskip.methods.settings import Setting
from dlskip.report import figures_common as common
from dlskip.report import style
from dlskip.report.figures_common import BANDS, SHARE, Picture, curve_points, facts, handles
from dlskip.report.view import View


def ordered(view: View) -> list[str]:
    """Ours and its ablations, each below the method that it differs from in one part."""
    found: list[str] = []

    def add(method: str) -> None:
        if method not in found:
            found.append(method)
            for other in view.ablations:
                if view.against(other) == method:
                    add(other)

    for method in ("ours", *view.ablations):
        add(method)
    return found


def ablations(view: View) -> Picture:
    """A row per ablation, ours on top: every threshold as a dot, the headline's filled."""
    methods = ordered(view)
    panels = [(group, name) for group in view.groups for name in ("quality", "share skipped")]
    figure, grid = style.panels(len(panels), 2, 7.4, 0.4 * len(methods) + 0.9, room=0.9)
    depth: dict[str | None, int] = {None: -1}
    for method in methods:
        depth[method] = depth.get(view.against(method), 0) + 1
    labels = [style.short(f"{'› ' * depth[m]}{method_title(m)}") for m in methods]
    for axes, (group, name) in zip(grid, panels, strict=True):
        axes.set_title(f"{group.name.capitalize()}: {name}")
        _rows(view, axes, methods, group.metric if name == "quality" else "skip_ratio", group.tasks)
        axes.set_xlabel(group.axis if name == "quality" else SHARE)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_yticks(range(len(methods)), labels, color=style.INK)
        axes.set_ylim(len(methods) - 0.5, -0.5)
    setting = view.headline.ours.setting
    dot = {"color": style.INK, "linestyle": "none"}
    marks = [
        plt.Line2D([], [], marker="D", **dot, label=setting.label()),
        plt.Line2D([], [], marker="D", markerfacecolor="white", markersize=4.5, **dot, label="the others"),
        plt.Line2D([], [], marker="|", markersize=14, markeredgewidth=1.6, **dot, label="the method it differs from"),
    ]
    style.legend(figure, marks)
    hint = "a row with one › more differs in one part from the row above it that has one less"
    style.note(figure, facts(view, view.tasks, "decided per sample", BANDS, hint))
    return Picture(
        figure, "Dot plot of quality and share of layers skipped of every ablation and of ours. The ablations table "
        "holds the numbers.",
        "A row per ablation, a dot per threshold or price. Further right is better in quality, and cheaper in share; "
        "an ablation that scores higher but skips less has not won.",
    )  # fmt: skip


def prices(view: View) -> Picture:
    """Quality against skipped share: ours by threshold, variants conditioned on the price by price."""
    figure, grid = style.panels(len(view.groups), 2, 5.6, 3.7)
    methods = ["ours", *view.priced]
    for axes, group in zip(grid, view.groups, strict=True):
        axes.set(title=group.heading, xlabel=SHARE, ylabel=group.axis)
        common.unskipped(axes, view, group.tasks)
        found = {method: curve_points(view, method, group.tasks) for method in methods}
        for method, points in found.items():
            colour = style.look(method)["color"]
            common.line(axes, points, method)
            common.whiskers(axes, view, points, group.tasks, colour)
            named = [(p.skipped, p.quality, p.condition.setting.short_label(), colour) for p in points]
            common.name_points(axes, named, below=method != "ours")
        if not any(found.values()):
            style.blank(axes)
    style.legend(figure, handles(["vanilla", *methods]), 3)
    hint = "numbers: threshold of ours, price of a layer of the others; whiskers: 95 % bootstrap intervals"
    style.note(figure, facts(view, view.tasks, BANDS, hint))
    return Picture(
        figure, "Line charts of quality against the share of layers skipped: ours by threshold, and controllers that "
        "are conditioned on the price of a layer, by price. The settings table holds the numbers.",
        "One checkpoint each. Where both lines reach a share, the higher one keeps more.",
    )  # fmt: skip


def _rows(view: View, axes: Axes, methods: Sequence[str], metric: str, tasks: Sequence[str]) -> None:
    """Ablations are evaluated per sample, and so is ours beside them."""
    chosen, found = view.headline.ours.setting, dict[str, dict[Setting, pd.Series]]()
    for method in methods:
        runs = view.conditions(method, view.batch_alone(method))
        found[method] = {run.setting: seeds for run in runs if len(seeds := view.over(run, metric, tasks))}
    for y, method in enumerate(methods):
        means = {setting: float(series.mean()) for setting, series in found[method].items()}
        if not means:
            axes.annotate(
                "not run", (0.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=style.MUTED
            )
            continue
        look: dict[str, Any] = {"color": style.SECOND, "marker": "D"}
        if method == "ours":
            look = {"color": style.OURS, "marker": "o"}
        axes.plot([min(means.values()), max(means.values())], [y, y], color=look["color"], linewidth=1.1, alpha=0.5)
        others = [value for setting, value in means.items() if setting != chosen]
        axes.plot(others, [y] * len(others), **look, linestyle="none", markerfacecolor="white", markersize=4.5)
        other = found.get(view.against(method) or "", {}).get(chosen)
        if other is not None:
            axes.plot(other.mean(), y, marker="|", markersize=14, markeredgewidth=1.6, color=style.INK, zorder=2.5)
        if chosen in means:
            mean, seeds = means[chosen], found[method][chosen]
            spread = float(seeds.std()) if len(seeds) > 1 else 0.0
            axes.hlines(y, mean - spread, mean + spread, color=look["color"], linewidth=4, alpha=0.3)
            axes.plot(mean, y, **look, markersize=7, zorder=4)
