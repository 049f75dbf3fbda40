"""Figures of the ablations: quality and skipped share of each beside ours, and what a price can choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlskip.methods.names import title as method_title
from dlskip.methods.settings import PER_SAMPLE, Setting
from dlskip.report import style
from dlskip.report.figures_common import BANDS, SHARE, course, facts, handles, kinds, line, unskipped, whiskers
from dlskip.report.stats import Run
from dlskip.report.view import View


def wanted(view: View) -> bool:
    """Whether the grid has any ablation."""
    return bool(view.ablations)


def ordered(view: View) -> list[str]:
    """Ours and its ablations, each below the method that it differs from in one part."""
    found: list[str] = []

    def add(method: str) -> None:
        if method not in found:
            found.append(method)
            for other in view.ablations:
                if counterpart(view, other) == method:
                    add(other)

    for method in ("ours", *view.ablations):
        add(method)
    return found


def counterpart(view: View, method: str) -> str | None:
    """The method that an ablation differs from in one part."""
    return None if method == "ours" else str(view.found.params.ablations.variants[method].against)


def ablations(view: View) -> Figure:
    """A row per ablation, ours on top: every threshold as a dot, the headline's filled."""
    methods = ordered(view)
    panels = [(kind, name) for kind in kinds(view) for name in ("quality", "share skipped")]
    figure, grid = style.panels(
        1, len(panels), figsize=(3.2 * len(panels) + 2.4, 0.4 * len(methods) + 2.2), sharey=True, squeeze=False
    )
    for axes, (kind, name) in zip(grid.flat, panels, strict=True):
        axes.set_title(f"{kind.name[0].upper()}{kind.name[1:]}: {name}")
        metric = view.quality(kind.tasks[0]) if name == "quality" else "skip_ratio"
        _rows(view, axes, methods, metric, kind.tasks)
        axes.set_xlabel(kind.metric if name == "quality" else SHARE)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    first = grid.flat[0]
    depth: dict[str | None, int] = {None: -1}
    for method in methods:
        depth[method] = depth.get(counterpart(view, method), 0) + 1
    labels = [f"{'    ' * (depth[m] - 1)}{method_title(m)}" for m in methods]
    first.set_yticks(range(len(methods)), labels, color=style.INK, ha="left")
    first.tick_params(axis="y", pad=5.6 * max(map(len, labels)))
    first.set_ylim(len(methods) - 0.5, -0.5)
    setting = view.headline.ours.setting
    dot = {"color": style.INK, "linestyle": "none"}
    marks = [
        plt.Line2D([], [], marker="D", **dot, label=setting.label()),
        plt.Line2D([], [], marker="D", markerfacecolor="white", markersize=4.5, **dot, label="the others"),
        plt.Line2D([], [], marker="|", markersize=14, markeredgewidth=1.6, **dot, label="the method it differs from"),
    ]
    figure.legend(handles=marks, loc="outside upper left", ncols=3, fontsize=9)
    hint = "indented rows differ in one part from the row they stand under"
    style.note(figure, facts(view, view.tasks, "decided per sample", BANDS, hint))
    return figure


def prices(view: View) -> Figure:
    """Quality against skipped share: ours by threshold, and variants whose controllers are told a price, by price."""
    figure, grid = style.panels(1, len(kinds(view)), figsize=(5.6 * len(kinds(view)), 4.4), squeeze=False)
    methods = ["ours", *view.priced]
    for axes, kind in zip(grid.flat, kinds(view), strict=True):
        axes.set_title(kind.title[0].upper() + kind.title[1:])
        unskipped(axes, view, kind.tasks)
        found = {method: course(view, method, kind.tasks) for method in methods}
        for method, points in found.items():
            line(axes, points, method)
            whiskers(axes, view, points, kind.tasks, style.look(method)["color"])
            for point in points:
                axes.annotate(
                    point.run.setting.short_label(), (point.skipped, point.quality), (5, 5), fontsize=8,
                    textcoords="offset points", color=style.legible(style.look(method)["color"]),
                    path_effects=style.HALO,
                )  # fmt: skip
        if not any(found.values()):
            axes.annotate("not run", (0.5, 0.5), xycoords="axes fraction", ha="center", color=style.MUTED)
        axes.set(xlabel=SHARE, ylabel=kind.metric)
    figure.legend(handles=handles(["vanilla", *methods]), loc="outside upper left", ncols=3, fontsize=9)
    hint = "numbers: threshold of ours, price of a layer of the others; whiskers: 95 % bootstrap intervals"
    style.note(figure, facts(view, view.tasks, BANDS, hint))
    return figure


def values(view: View, method: str, metric: str, tasks: Sequence[str]) -> dict[Setting, pd.Series]:
    """By setting, what was measured of each seed; ablations are evaluated per sample, and so ours beside them."""
    batch = view.headline.ours.batch if method == "ours" and "per_sample" not in view.batches else PER_SAMPLE
    found = {t: view.over(Run(method, t, batch), metric, tasks) for t in view.settings(method)}
    return {threshold: series for threshold, series in found.items() if len(series)}


def _rows(view: View, axes: Axes, methods: Sequence[str], metric: str, tasks: Sequence[str]) -> None:
    setting = view.headline.ours.setting
    found = {method: values(view, method, metric, tasks) for method in methods}
    for y, method in enumerate(methods):
        means = {threshold: float(series.mean()) for threshold, series in found[method].items()}
        if not means:
            axes.annotate(
                "not run", (0.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, color=style.MUTED
            )
            continue
        look: dict[str, Any] = {"color": style.SECOND, "marker": "D"}
        if method == "ours":
            look = {"color": style.OURS, "marker": "o"}
        axes.plot([min(means.values()), max(means.values())], [y, y], color=look["color"], linewidth=1.1, alpha=0.5)
        others = [value for threshold, value in means.items() if threshold != setting]
        axes.plot(others, [y] * len(others), **look, linestyle="none", markerfacecolor="white", markersize=4.5)
        other = found.get(counterpart(view, method) or "", {}).get(setting)
        if other is not None:
            axes.plot(other.mean(), y, marker="|", markersize=14, markeredgewidth=1.6, color=style.INK, zorder=2.5)
        if setting in means:
            mean, seeds = means[setting], found[method][setting]
            spread = float(seeds.std()) if len(seeds) > 1 else 0.0
            axes.hlines(y, mean - spread, mean + spread, color=look["color"], linewidth=4, alpha=0.3)
            axes.plot(mean, y, **look, markersize=7, zorder=4)
