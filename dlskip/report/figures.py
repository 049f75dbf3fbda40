"""Figures of quality against the share of layers skipped; ``draw`` writes these and all others of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlskip.report import figures_ablations, figures_layers, figures_speed, style, training_figures
from dlskip.report.figures_common import (
    BANDS,
    SHARE,
    Kind,
    at_share,
    course,
    facts,
    handles,
    kinds,
    line,
    name_ends,
    papers_task,
    unskipped,
    whiskers,
)
from dlskip.report.matched import rivals
from dlskip.report.stats import estimate
from dlskip.report.view import Point, View, batch_label, short

SHOWN = 3  # baselines in the headline's picture


def draw(view: View, directory: Path) -> None:
    """Writes every figure but ``token_depth``; ``ablations`` and ``prices`` only if the grid has any."""
    made = {
        "headline": headline, "figure3": figure3, "quality_vs_skip": quality_vs_skip, "batch_rules": batch_rules,
        "layer_heatmap": figures_layers.per_task, "method_heatmap": figures_layers.per_method,
        "pareto": figures_speed.pareto, "speed": figures_speed.speed, "training": training_figures.training,
        "sampled_vs_threshold": training_figures.sampled_vs_threshold, "figure4": training_figures.figure4,
    }  # fmt: skip
    if figures_ablations.wanted(view):
        made["ablations"] = figures_ablations.ablations
    if view.priced:
        made["prices"] = figures_ablations.prices
    for name, maker in made.items():
        style.save(maker(view), directory, name)


def headline(view: View) -> Figure:
    """Wide picture: average quality against skipped share, and beside it which layers each task skips."""
    figure, (left, right) = style.panels(
        1, 2, figsize=(14.6, 5.1), gridspec_kw={"width_ratios": [1.18, 1], "wspace": 0.04}
    )
    kind = kinds(view)[0]
    _headline_trade(view, left, kind)
    figures_layers.heatmap(view, right)
    hidden = len(view.baselines) - len(strongest(view, kind.tasks))
    style.note(
        figure,
        facts(view, kind.tasks, "t: threshold", "whiskers and grey band: 95 % bootstrap intervals",
              "random: chance masks at the rate measured for ours, same weights",
              f"{hidden} weaker baselines: see quality_vs_skip; right: the first and the last layer always run"),
    )  # fmt: skip
    return figure


def strongest(view: View, tasks: Sequence[str]) -> list[str]:
    """The best baseline at the headline's skipped share, and the next ones if they beat the random control there."""
    found = [(rival.method, estimate(rival.there).value) for rival in rivals(view, tasks) if rival.there]
    least = view.one(view.headline.random, view.quality(tasks[0]), tasks)
    return [m for i, (m, quality) in enumerate(found[:SHOWN]) if i == 0 or not quality <= least]


def _headline_trade(view: View, axes: Axes, kind: Kind) -> None:
    tasks = kind.tasks
    axes.set(title=f"Quality against skipped layers, {kind.title}", ylabel=kind.metric, xlabel=SHARE)
    level = unskipped(axes, view, tasks, interval=True)
    lines = {m: course(view, m, tasks) for m in (*strongest(view, tasks), "random", "ours")}
    main = [p for m in ("ours", "random") for p in lines[m]]
    if not main and math.isnan(level):
        style.blank(axes)
        return
    most = 5 * math.ceil((1.12 * max((p.skipped for p in main), default=90) + 1) / 5)
    bands = []
    for method, points in lines.items():
        measured = [p for p in points if not p.run.setting.full_depth]
        line(axes, points, method, faint=method not in ("ours", "random"), band=False)
        if method in ("ours", "random"):
            whiskers(axes, view, measured, tasks, style.look(method)["color"])
            bands += [view.bootstrap.mean(p.run, tasks) for p in measured]
    _thresholds(axes, lines["ours"], apart=0.08 * most)
    ends = {m: _end(points, most) for m, points in lines.items() if points}
    seen = [y for _, y in ends.values()] + [p.quality for ps in lines.values() for p in ps if p.skipped <= most]
    seen += [y for band in bands for y in (band.low, band.high)] + ([] if math.isnan(level) else [level])
    room = 0.06 * max(max(seen) - min(seen), 1.0)
    axes.set(xlim=(0, most), ylim=(min(seen) - room, max(seen) + room))
    name_ends(axes, ends | ({} if math.isnan(level) else {"vanilla": (float(most), level)}))


def _thresholds(axes: Axes, points: Sequence[Point], apart: float) -> None:
    """Names the thresholds of ours; those that skip alike share a label."""
    groups: list[list[Point]] = []
    for point in points:
        if point.run.setting.full_depth:
            continue
        if groups and point.skipped - groups[-1][0].skipped < apart:
            groups[-1].append(point)
        else:
            groups.append([point])
    for same in groups:
        axes.annotate(
            "t=" + ", ".join(p.run.setting.short_label() for p in same), (same[0].skipped, same[0].quality), (-4, -13),
            textcoords="offset points", fontsize=8, ha="right", color=style.OURS, path_effects=style.HALO, zorder=6,
        )  # fmt: skip


def _end(points: Sequence[Point], most: float) -> tuple[float, float]:
    """Where a line leaves the picture, or ends."""
    last = points[-1]
    return (last.skipped, last.quality) if last.skipped <= most else (most, at_share(points, most))


def figure3(view: View) -> Figure:
    """The paper's figure 3: macro F1 against skipped share on its question-answering task, every method."""
    figure, axes = style.panels(figsize=(9.4, 4.7))
    task = papers_task(view)
    if task is None:
        axes.set_title("Quality against skipped layers")
        style.blank(axes)
        return figure
    axes.set_title(f"{short(task)}: quality against skipped layers")
    if not _all_methods(view, axes, [task], interval=True):
        style.blank(axes)
        return figure
    whiskers(axes, view, view.points("ours", [task]), [task], style.OURS)
    axes.set(xlabel=SHARE, ylabel="macro F1, %")
    marks = handles(view.compared, absent=_absent(view, [task]))
    figure.legend(handles=marks, loc="outside right upper", fontsize=9, handlelength=2.6)
    style.note(figure, facts(view, [task], BANDS, "whiskers and grey band: 95 % bootstrap intervals"))
    return figure


def _absent(view: View, tasks: Sequence[str]) -> list[str]:
    """Methods of which nothing was run on any of the tasks."""
    return [m for m in view.compared if m != "vanilla" and not any(course(view, m, [task]) for task in tasks)]


def _all_methods(view: View, axes: Axes, tasks: Sequence[str], *, interval: bool = False) -> bool:
    """Every method's line; False if nothing was run."""
    lines = {m: course(view, m, tasks) for m in view.compared if m != "vanilla"}
    level = unskipped(axes, view, tasks, interval=interval)
    for method, points in sorted(lines.items(), key=lambda item: item[0] == "ours"):
        line(axes, points, method)
    axes.set_xlim(0, max([1.04 * points[-1].skipped for points in lines.values() if points], default=100))
    axes.margins(y=0.08)
    return not math.isnan(level) or any(lines.values())


def _panels(view: View) -> list[tuple[str, list[str]]]:
    """(title, tasks): the averages, each followed by its tasks."""
    found = []
    for kind in kinds(view):
        if len(kind.tasks) > 1:
            found.append((f"Mean {kind.metric.split(',')[0]}, {len(kind.tasks)} tasks", kind.tasks))
        found += [(short(task), [task]) for task in kind.tasks]
    return found


def quality_vs_skip(view: View) -> Figure:
    """Small multiples: the averages and every task, every method."""
    figure, grid, panels = _multiples(view)
    for axes, (title, tasks) in zip(grid, panels, strict=True):
        axes.set_title(title)
        if not _all_methods(view, axes, tasks):
            style.blank(axes)
    marks = handles(view.compared, absent=_absent(view, view.tasks))
    figure.legend(handles=marks, loc="outside upper left", ncols=5, fontsize=9, handlelength=2.6)
    upright = "upright: macro F1 in % (understanding), BLEU (translation)"
    style.note(figure, f"across: {SHARE}; {upright}; {facts(view, view.tasks, BANDS)}")
    return figure


def batch_rules(view: View) -> Figure:
    """Small multiples: ours alone, at every batch size, in the range of shares that it reaches."""
    figure, grid, panels = _multiples(view)
    for axes, (title, tasks) in zip(grid, panels, strict=True):
        axes.set_title(title)
        metric, level, drawn = view.quality(tasks[0]), unskipped(axes, view, tasks), False
        for batch in reversed(view.batches):
            runs = view.runs("ours", batch)
            points = np.array([(view.one(r, "skip_ratio", tasks), view.one(r, metric, tasks)) for r in runs])
            points = points[~np.isnan(points).any(axis=1)]
            points = points[points[:, 0].argsort()]
            axes.plot(points[:, 0], points[:, 1], markeredgewidth=1.1, **style.BATCH.get(batch, style.BATCH["1"]))
            drawn = drawn or len(points) > 0
        line(axes, [p for p in view.points("random", tasks) if not p.run.setting.full_depth], "random", band=False)
        if not drawn and math.isnan(level):
            style.blank(axes)
        elif not drawn:
            axes.text(0.5, 0.5, "ours: not run", transform=axes.transAxes, ha="center", color=style.MUTED)
        else:
            axes.margins(x=0.08, y=0.12)
            axes.set_xlim(left=0)
    marks = [
        plt.Line2D([], [], **style.BATCH.get(b, style.BATCH["1"]), label=f"Ours, {batch_label(b)}")
        for b in view.batches
    ]
    marks += handles(["random", "vanilla"])
    figure.legend(handles=marks, loc="outside upper left", ncols=6, fontsize=9, handlelength=2.6)
    style.note(
        figure, f"across: {SHARE}; upright: macro F1 in % (understanding), BLEU (translation); "
        f"{facts(view, view.tasks)}; one point per threshold",
    )  # fmt: skip
    return figure


def _multiples(view: View) -> tuple[Figure, list[Axes], list[tuple[str, list[str]]]]:
    """A grid of panels, one per average and task; those that are left over are switched off."""
    panels = _panels(view)
    columns = min(5, math.ceil(len(panels) / 2)) if len(panels) > 3 else len(panels)
    lines = math.ceil(len(panels) / columns)
    figure, grid = style.panels(lines, columns, figsize=(3.0 * columns + 0.4, 2.75 * lines + 1.0), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    return figure, list(grid.flat[: len(panels)]), panels
