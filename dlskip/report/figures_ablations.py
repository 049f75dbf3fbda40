"""Figures of the ablations: quality and skipped share of each beside ours, and what a price can choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dlskip.methods.names import title as method_title
from dlskip.methods.settings import PER_SAMPLE, Setting
from dlskip.report import style
from dlskip.report.figures_common import (
    BANDS,
    SHARE,
    Picture,
    curve_points,
    facts,
    handles,
    kinds,
    line,
    unskipped,
    whiskers,
)
from dlskip.report.stats import Condition
from dlskip.report.view import View


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


def ablations(view: View) -> Picture:
    """A row per ablation, ours on top: every threshold as a dot, the headline's filled."""
    methods = ordered(view)
    panels = [(kind, name) for kind in kinds(view) for name in ("quality", "share skipped")]
    figure, grid = style.panels(len(panels), 2, 7.4, 0.4 * len(methods) + 0.9, room=0.9)
    labels = _labels(view, methods)
    for axes, (kind, name) in zip(grid, panels, strict=True):
        axes.set_title(f"{kind.name[0].upper()}{kind.name[1:]}: {name}")
        metric = view.quality(kind.tasks[0]) if name == "quality" else "skip_ratio"
        _rows(view, axes, methods, metric, kind.tasks)
        axes.set_xlabel(kind.metric if name == "quality" else SHARE)
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


def _labels(view: View, methods: Sequence[str]) -> list[str]:
    """The methods' names; arrows say how many parts differ from ours."""
    depth: dict[str | None, int] = {None: -1}
    for method in methods:
        depth[method] = depth.get(counterpart(view, method), 0) + 1
    return [style.short(f"{'› ' * depth[m]}{method_title(m)}") for m in methods]


def prices(view: View) -> Picture:
    """Quality against skipped share: ours by threshold, variants conditioned on the price by price."""
    figure, grid = style.panels(len(kinds(view)), 2, 5.6, 3.7)
    methods = ["ours", *view.priced]
    for axes, kind in zip(grid, kinds(view), strict=True):
        axes.set_title(kind.title[0].upper() + kind.title[1:])
        unskipped(axes, view, kind.tasks)
        found = {method: curve_points(view, method, kind.tasks) for method in methods}
        for method, points in found.items():
            line(axes, points, method)
            whiskers(axes, view, points, kind.tasks, style.look(method)["color"])
            for point in points:
                axes.annotate(
                    point.condition.setting.short_label(), (point.skipped, point.quality), (5, 5), fontsize=8,
                    textcoords="offset points", color=style.look(method)["color"],
                    bbox=style.BEHIND,
                )  # fmt: skip
        if not any(found.values()):
            axes.annotate("not run", (0.5, 0.5), xycoords="axes fraction", ha="center", color=style.MUTED)
        axes.set(xlabel=SHARE, ylabel=kind.metric)
    style.legend(figure, handles(["vanilla", *methods]), 3)
    hint = "numbers: threshold of ours, price of a layer of the others; whiskers: 95 % bootstrap intervals"
    style.note(figure, facts(view, view.tasks, BANDS, hint))
    return Picture(
        figure, "Line charts of quality against the share of layers skipped: ours by threshold, and controllers that "
        "are conditioned on the price of a layer, by price. The settings table holds the numbers.",
        "One checkpoint each. Where both lines reach a share, the higher one keeps more.",
    )  # fmt: skip


def values(view: View, method: str, metric: str, tasks: Sequence[str]) -> dict[Setting, pd.Series]:
    """By setting, what was measured of each seed; ablations are evaluated per sample, and so ours beside them."""
    batch = view.headline.ours.batch if method == "ours" and "per_sample" not in view.batches else PER_SAMPLE
    found = {t: view.over(Condition(method, t, batch), metric, tasks) for t in view.settings(method)}
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
