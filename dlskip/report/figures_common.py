"""What the figures share: a method's line, the names at its end, and the line of facts under a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlskip.methods.names import UNSKIPPED
from dlskip.methods.names import title as method_title
from dlskip.report import style
from dlskip.report.view import LONG, VANILLA, Point, View

BANDS = "band: one standard deviation over seeds"  # these two are said of more than one seed alone
RANGE = "band: the range between seeds, around their mean"
SHARE = "layer applications skipped, %"


class Picture(NamedTuple):
    """A figure, what it shows (for those who do not see it), and how to read it."""

    figure: Figure
    alt: str
    caption: str


def curve_points(view: View, method: str, tasks: Sequence[str]) -> list[Point]:
    """A method's points with the one that it begins with, which alone is no curve: empty if nothing else was run."""
    points, begin = view.points(method, tasks), view.start(method)
    return points if any(point.condition != begin for point in points) else []


def end_of(points: Sequence[Point], most: float) -> tuple[float, float]:
    """Where a line ends, or leaves a picture that shows shares up to ``most``: share and quality."""
    x, y = [p.skipped for p in points], [p.quality for p in points]
    return min(x[-1], most), float(np.interp(most, x, y))


def line(axes: Axes, points: Sequence[Point], method: str, *, faint: bool = False, band: bool = True) -> None:
    """A method's settings as a line; a band of one standard deviation over seeds where more than one ran."""
    if not points:
        return
    look, leads = style.look(method), method == "ours"
    x, y = np.array([p.skipped for p in points]), np.array([p.quality for p in points])
    spread = np.nan_to_num([p.std for p in points])
    if band and spread.any():
        axes.fill_between(x, y - spread, y + spread, color=look["color"], alpha=0.13, linewidth=0, zorder=1.5)
    axes.plot(
        x, y, **look, linewidth=2.3 if leads else 1.3, markersize=6 if leads else _size(look["marker"]),
        markeredgewidth=0.4, markeredgecolor="white", zorder=4 if leads else 3, alpha=0.6 if faint else 1,
    )  # fmt: skip


def _size(marker: str) -> float:
    """A marker's size: those without a body are drawn larger."""
    return {"X": 6.5, "P": 6.5, "*": 11}.get(marker, 4.8)


def unskipped(axes: Axes, view: View, tasks: Sequence[str], *, interval: bool = False) -> dict[str, float]:
    """The levels of what runs every layer, as lines across, vanilla's with its bootstrap interval if asked.

    Returns:
        The level of each method of which anything was run.
    """
    levels = {run.method: float(view.quality(run, tasks).mean()) for run in (VANILLA, LONG)}
    levels = {method: level for method, level in levels.items() if not math.isnan(level)}
    for method, level in levels.items():
        look = style.look(method)
        axes.axhline(level, color=look["color"], linewidth=1.3, linestyle=look["linestyle"], zorder=2)
    if interval and "vanilla" in levels:
        band = view.bootstrap.mean(VANILLA, tasks)
        axes.axhspan(band.low, band.high, color=style.look("vanilla")["color"], alpha=0.06, linewidth=0)
    return levels


def whiskers(axes: Axes, view: View, points: Sequence[Point], tasks: Sequence[str], colour: str) -> None:
    """95 % bootstrap intervals over examples at a line's points."""
    bands = [view.bootstrap.mean(p.condition, tasks) for p in points]
    axes.vlines(
        [p.skipped for p in points], [b.low for b in bands], [b.high for b in bands], color=colour, linewidth=1,
        alpha=0.5,
    )  # fmt: skip


def name_ends(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """Names lines in a column at the right edge, each at the height of its end, kept apart where they come close.

    ``ends``: the last visible point of each method's line. The axes' limits must be final.
    """
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    names = sorted(ends, key=lambda method: ends[method][1])
    least = 0.055 * (top - bottom)
    heights = [min(max(ends[m][1], bottom + least / 2), top - least / 2) for m in names]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + least)
    for i in range(len(heights) - 1, -1, -1):
        heights[i] = min(heights[i], top - least / 2 - (len(heights) - 1 - i) * least)
    for height, method in zip(heights, names, strict=True):
        colour, (x, y) = style.look(method)["color"], ends[method]
        if math.hypot((right - x) / (right - left), (height - y) / (top - bottom)) > 0.02:
            axes.plot([x, right], [y, height], color=colour, linewidth=0.7, alpha=0.5, clip_on=False, zorder=1)
        axes.annotate(
            style.short(method_title(method)), (right, height), (5, 0), textcoords="offset points", color=colour,
            va="center", fontsize=9, fontweight="bold" if method in ("ours", "vanilla", "random") else "normal",
            annotation_clip=False, bbox=style.BEHIND,
        )  # fmt: skip


def name_points(axes: Axes, named: Iterable[tuple[float, float, str, str]], below: bool = False) -> None:
    """Names points (x, y, name, colour) beside them, but none that would cover the name before it.

    The axes' limits must be final.
    """
    last = (-math.inf, -math.inf)
    for x, y, name, colour in named:
        across, up = axes.transData.transform((x, y)) * 72 / axes.figure.dpi  # in points
        if across - last[0] < 26 and abs(up - last[1]) < 12:
            continue
        last = (across, up)
        axes.annotate(
            name, (x, y), (5, -13 if below else 5), textcoords="offset points", fontsize=8, color=colour,
            bbox=style.BEHIND, zorder=6,
        )  # fmt: skip


def handles(methods: Sequence[str], *, lines: bool = True, absent: Sequence[str] = ()) -> list[Any]:
    """Legend entries, of lines or of points alone; ``absent``: those of the methods that were not run.

    A method that skips nothing is a line without a marker when it stands for a level.
    """
    entries = []
    for method in methods:
        look = style.look(method)
        if method in UNSKIPPED and lines:
            look["marker"] = ""
        if not lines:
            look["linestyle"] = "none"
        label = method_title(method) + (": not run" if method in absent else "")
        entries.append(plt.Line2D([], [], **look, markersize=1.15 * _size(look["marker"]), label=label))
    return entries


def facts(view: View, tasks: Sequence[str], *more: str) -> str:
    """Backbone, n and seeds, and whatever else a reader must know to read a figure; no word of bands for one seed."""
    counts = sorted({view.n[t] for t in tasks if t in view.n})
    said = [view.backbone]
    if counts:
        span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
        said.append(f"{span} test examples" + (" per task" if len(tasks) > 1 else ""))
    seeds = len(view.found.params.grid.seeds)
    said.append("1 seed" if seeds == 1 else f"{seeds} seeds")
    return "; ".join([*said, *(text for text in more if seeds > 1 or text not in (BANDS, RANGE))])
