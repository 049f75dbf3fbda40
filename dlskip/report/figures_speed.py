"""Figures of measured speed: what quality it costs, and how far it stays behind what skipping could give."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dlskip.methods.names import title as method_title
from dlskip.methods.settings import FULL, PER_SAMPLE, BatchRule
from dlskip.report import style
from dlskip.report.figures_common import Picture, facts, handles, name_points
from dlskip.report.stats import Condition
from dlskip.report.view import TaskGroup, View, batch_label

PHASES = {"prefill": "Prefill", "decode": "Decoding"}
PARETO: tuple[BatchRule, ...] = ("1", "16")  # the batch sizes of ``pareto``
APART = 8.0  # points of share, by which a timed run may differ from the one whose quality stands beside it
_MARKS = [
    [0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2, 2.2, 2.4],
    [0.4, 0.5, 0.6, 0.7, 0.8, 1, 1.2, 1.4, 1.7, 2, 2.5, 3, 4, 5, 6, 8, 10, 12],
    [0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50],
]
_HOLLOW = {"markerfacecolor": "white", "markeredgecolor": style.OURS, "markersize": 7.5, "markeredgewidth": 1.4}


class Measured(NamedTuple):
    """One run in a plane: speed-up across, quality upward."""

    condition: Condition
    x: float
    y: float


def front(points: Sequence[Measured]) -> list[Measured]:
    """The points that no other one beats in both: rising x, falling y."""
    kept: list[Measured] = []
    for point in sorted(points, key=lambda p: (-p.x, -p.y)):
        if not kept or point.y > kept[-1].y:
            kept.append(point)
    return kept[::-1]


def timed(view: View, method: str, batch: BatchRule) -> list[Condition]:
    """A method's runs that were timed at a batch size, with full depth."""
    runs = view.conditions(method, batch)
    return [Condition(method, FULL, batch), *runs] if method == "ours" else runs


def _untimed(view: View, methods: Sequence[str]) -> list[str]:
    """Methods of which nothing was timed."""
    runs = {m: [run for batch in view.timed_batches for run in timed(view, m, batch)] for m in methods}
    return [m for m in methods if all(math.isnan(view.speed(run, "speedup_prefill")) for run in runs[m])]


def pareto(view: View) -> Picture:
    """Quality against measured speed-up; the line joins what no other setting beats in both."""
    batches = [b for b in PARETO if b in view.timed_batches] or view.timed_batches[:1]
    shown = [(group, batch) for group in view.groups for batch in batches]
    figure, grid = style.panels(len(shown), len(batches), 6.1, 3.7, room=1.2)
    for axes, (group, batch) in zip(grid, shown, strict=True):
        axes.set_title(f"{group.heading}\n{PHASES[group.phase].lower()}, {batch_label(batch)}")
        _plane(view, axes, group, batch)
    marks = handles(view.timed, lines=False, absent=_untimed(view, view.timed))
    if PER_SAMPLE in view.batches:
        marks.append(plt.Line2D([], [], marker="o", linestyle="none", **_HOLLOW, label="Ours, per sample"))
    marks.append(plt.Line2D([], [], color=style.INK, linewidth=1, label="not beaten in both"))
    style.legend(figure, marks)
    rule = f"not drawn: settings that skipped a share more than {APART:g} points from that on the tasks while timed"
    style.note(figure, facts(view, view.tasks, "timed against full depth, in the same run", rule))
    return Picture(
        figure, "Scatter plots of quality against measured speed-up. The speed table holds the numbers.",
        "Up is better, right is faster. The thin line joins the settings that no other one beats in both; they are "
        "labelled with threshold or share.",
    )  # fmt: skip


def measured(view: View, group: TaskGroup, batch: BatchRule) -> tuple[list[Measured], list[str]]:
    """What ``pareto`` shows of a batch size, and the methods of which it leaves something out.

    Speed is measured on other rows than quality is. A run that skipped much more, or less, while it was timed than on
    the tasks has a speed that does not belong to its quality.
    """
    points, left_out = [], dict[str, None]()
    runs = [run for method in view.compared for run in timed(view, method, batch)]
    if batch != "1" and PER_SAMPLE in view.batches:
        runs += timed(view, "ours", PER_SAMPLE)
    for run in runs:
        judged = run if run.method == "ours" else run._replace(batch=view.batch_of(run.method))
        factor, skipped = (view.speed(run, f"{metric}_{group.phase}") for metric in ("speedup", "skip"))
        quality = float(view.quality(judged, group.tasks).mean())
        if math.isnan(quality + factor):
            continue
        if comparable(skipped, view.share(judged, group.tasks)):
            points.append(Measured(run, factor, quality))
        else:
            left_out[run.method] = None
    return points, list(left_out)


def comparable(timed_share: float, share: float) -> bool:
    """Whether a run skipped about as much while it was timed as where its quality was measured (both in %)."""
    return abs(timed_share - share) <= APART


def _plane(view: View, axes: Axes, group: TaskGroup, batch: BatchRule) -> None:
    points, left_out = measured(view, group, batch)
    if left_out:
        names = textwrap.fill(f"not drawn (see below): {', '.join(map(method_title, left_out))}", 52)
        axes.text(0.99, 0.98, names, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=style.MUTED)
    if not points:
        style.blank(axes)
        return
    for point in points:
        look = style.look(point.condition.method) | {"linestyle": "none"}
        leads = point.condition.method in ("ours", "vanilla")
        size = 12 if point.condition.method == "vanilla" else 8 if leads else 6.5
        look |= {"markersize": size, "zorder": 4 if leads else 3, "markeredgecolor": "white"}
        look |= _HOLLOW if point.condition.batch == "per_sample" and leads else {}
        axes.plot(point.x, point.y, **look)
    best = front(points)
    axes.step([p.x for p in best], [p.y for p in best], where="pre", color=style.INK, linewidth=1, zorder=1)
    axes.margins(x=0.06, y=0.12)
    _factors(axes.xaxis)
    axes.axvline(1, color=style.MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.set(xlabel=f"{PHASES[group.phase].lower()}: time at full depth / time measured", ylabel=group.axis)
    named = []
    for (method, setting, _), x, y in (p for p in best if not p.condition.setting.full_depth):
        label = setting.short_label() if method != "ours" else f"t={setting.short_label()}"
        named.append((x, y, label, style.look(method)["color"]))
    name_points(axes, named)


def _factors(axis: Any) -> None:
    """A logarithmic axis of factors, with as many marks as there is room for; the data must be drawn."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    for marks in _MARKS:
        seen = [mark for mark in marks if low <= mark <= high]
        if len(seen) <= 9:
            break
    axis.set_major_locator(FixedLocator(marks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def speed(view: View) -> Picture:
    """Measured speed-up against counted share, with the line that skipping could reach at most."""
    batches = view.timed_batches
    shown = [(phase, batch) for phase in PHASES for batch in batches]
    figure, grid = style.panels(len(shown), len(batches), 4.6, 3.2, room=1.2)
    for axes, (phase, batch) in zip(grid, shown, strict=True):
        axes.set_title(f"{PHASES[phase]}, {batch_label(batch)}")
        _against_ideal(view, axes, phase, batch)
    methods = [m for m in view.skipping if m != "random"]
    marks = handles(methods, lines=False, absent=_untimed(view, methods))
    marks.append(plt.Line2D([], [], color=style.INK, label="ideal: 1 / (1 − s)"))
    style.legend(figure, marks)
    style.note(
        figure, facts(view, [], "prefill of understanding prompts, decoding of translations of one length; above 1: "
                      "faster than the same weights at full depth, in the same run; both axes of what was timed; "
                      "ideal: if the layers, of which s is skipped, took all the time"),
    )  # fmt: skip
    return Picture(
        figure, "Scatter plots of measured speed-up against the share of layers skipped, with the ideal line 1/(1-s). "
        "The speed table holds the numbers.",
        "Below 1 means slower than the same weights unskipped. The gap to the line is what embedding, LM head, "
        "key/value filling, gathering of rows and the controllers cost on this machine; a point above the line shows "
        "how far the timing scatters.",
    )  # fmt: skip


def _against_ideal(view: View, axes: Axes, phase: str, batch: BatchRule) -> None:
    most = 0.0
    for method in view.skipping:
        runs = view.conditions(method, batch)
        points = [(view.speed(run, f"skip_{phase}"), view.speed(run, f"speedup_{phase}")) for run in runs]
        points = [p for p in points if not math.isnan(p[0] + p[1])]
        if not points:
            continue
        leads = method == "ours"
        look = style.look(method) | {"linestyle": "none", "markersize": 7, "zorder": 4 if leads else 3}
        if not leads:  # baselines that skip as many layers take as long: let all of them be seen
            look |= {"markerfacecolor": "none", "markeredgewidth": 1.1}
        axes.plot(*zip(*points, strict=True), **look)
        most = max(most, 10, *(x for x, _ in points))
    if not most:
        style.blank(axes)
        return
    share = np.linspace(0, min(most + 1, 98), 200)
    axes.plot(share, 100 / (100 - share), color=style.INK, linewidth=1.2, zorder=2)
    axes.axhline(1, color=style.MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    _factors(axes.yaxis)
    axes.set(xlabel="layer applications skipped while timed, %", ylabel="time at full depth / measured")
    axes.set_xlim(0, share[-1] + 2)
