"""Figures of quality against the share of layers skipped; ``draw`` makes these and all others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes

from dlskip.plotting import theme
from dlskip.report import figures_ablations, figures_layers, figures_speed, headline, style, training_figures
from dlskip.report import figures_common as common
from dlskip.report.compare import FIGURE3
from dlskip.report.figures_common import BANDS, SHARE, Picture, curve_points, facts, handles
from dlskip.report.matched import rivals
from dlskip.report.stats import estimate
from dlskip.report.view import TaskGroup, View, short

SHOWN = 3  # baselines in the headline's picture


class Drawn(NamedTuple):
    """A figure in the page: as a drawing in two widths, its words, and how to read it."""

    wide: str
    narrow: str
    alt: str
    caption: str


def makers(view: View) -> dict[str, Callable[[View], Picture]]:
    """Every figure that the grid has something for."""
    made: dict[str, Callable[[View], Picture]] = {
        "headline": headline_figure, "quality_vs_skip": quality_vs_skip, "figure3": figure3,
        "pareto": figures_speed.pareto, "speed": figures_speed.speed, "method_heatmap": figures_layers.per_method,
        "token_depth": figures_layers.token_depth, "training": training_figures.training,
        "figure4": training_figures.figure4, "ablations": figures_ablations.ablations,
        "prices": figures_ablations.prices,
    }  # fmt: skip
    wanted = {"figure3": FIGURE3[0] in view.tasks, "ablations": bool(view.ablations), "prices": bool(view.priced)}
    return {name: maker for name, maker in made.items() if wanted.get(name, True)}


def draw(view: View, directory: Path) -> dict[str, Drawn]:
    """Writes ``<name>.svg`` of every figure and returns what the page shows of each."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, maker in makers(view).items():
        with style.style():
            picture = maker(view)
            wide = theme.svg(picture.figure)
        with style.style(narrow=True):
            narrow = theme.svg(maker(view).figure)
        (directory / f"{name}.svg").write_text(wide, encoding="utf-8")
        drawn[name] = Drawn(wide, narrow, picture.alt, picture.caption)
    return drawn


def headline_figure(view: View) -> Picture:
    """Average quality against skipped share, and beside it which layers each task skips."""
    figure, (left, right) = style.panels(2, 2, 7.3, 5.0, room=0.3)
    tasks = view.groups[0].tasks
    _headline_trade(view, left, view.groups[0])
    figures_layers.heatmap(view, right)
    hidden = len(view.baselines) - len(strongest(view, tasks))
    style.note(
        figure,
        facts(view, tasks, "t: threshold", "whiskers and grey band: 95 % bootstrap intervals",
              "random: chance masks at the rate measured for ours, same weights",
              f"{hidden} weaker baselines: see quality_vs_skip; the first and the last layer always run"),
    )  # fmt: skip
    caption = (
        "First: every threshold of ours, its random control and the strongest baselines. Second: how often each layer "
        "is skipped, by the prompt's decision and by the tokens of a translation; at the right edge the mean."
    )
    return Picture(figure, " ".join(headline.sentences(view)), caption)


def strongest(view: View, tasks: Sequence[str]) -> list[str]:
    """The best baseline at the headline's skipped share, and the next ones if they beat the random control there."""
    found = [(rival.method, estimate(rival.there).value) for rival in rivals(view, tasks) if rival.there]
    least = float(view.quality(view.headline.random, tasks).mean())
    return [m for i, (m, quality) in enumerate(found[:SHOWN]) if i == 0 or not quality <= least]


def _headline_trade(view: View, axes: Axes, group: TaskGroup) -> None:
    tasks = group.tasks
    axes.set(title=f"Quality against skipped layers\n{group.heading}", ylabel=group.axis, xlabel=SHARE)
    levels = common.unskipped(axes, view, tasks, interval=True)
    lines = {m: curve_points(view, m, tasks) for m in (*strongest(view, tasks), "random", "ours")}
    main = [p for m in ("ours", "random") for p in lines[m]]
    if not main and not levels:
        style.blank(axes)
        return
    most = 5 * math.ceil((1.12 * max((p.skipped for p in main), default=90) + 1) / 5)
    bands = []
    for method, points in lines.items():
        measured = [p for p in points if not p.condition.setting.full_depth]
        common.line(axes, points, method, faint=method not in ("ours", "random"), band=False)
        if method in ("ours", "random"):
            common.whiskers(axes, view, measured, tasks, style.look(method)["color"])
            bands += [view.bootstrap.mean(p.condition, tasks) for p in measured]
    ends = {m: common.end_of(points, most) for m, points in lines.items() if points}
    seen = [y for _, y in ends.values()] + [p.quality for ps in lines.values() for p in ps if p.skipped <= most]
    seen += [y for band in bands for y in (band.low, band.high)] + [*levels.values()]
    room = 0.06 * max(max(seen) - min(seen), 1.0)
    axes.set(xlim=(0, most), ylim=(min(seen) - room, max(seen) + room))
    common.name_ends(axes, ends | {method: (float(most), level) for method, level in levels.items()})
    ours = [p for p in lines["ours"] if not p.condition.setting.full_depth]
    named = [(p.skipped, p.quality, f"t={p.condition.setting.short_label()}", style.OURS) for p in ours]
    common.name_points(axes, named, below=True)


def _all_methods(view: View, axes: Axes, tasks: Sequence[str], *, interval: bool = False) -> None:
    """Every method's line; the panel says so if nothing was run."""
    lines = {m: curve_points(view, m, tasks) for m in view.skipping}
    levels = common.unskipped(axes, view, tasks, interval=interval)
    for method, points in sorted(lines.items(), key=lambda item: item[0] == "ours"):
        common.line(axes, points, method)
    axes.set_xlim(0, max([1.04 * points[-1].skipped for points in lines.values() if points], default=100))
    axes.margins(y=0.08)
    if not levels and not any(lines.values()):
        style.blank(axes)


def _absent(view: View, tasks: Sequence[str]) -> list[str]:
    """Methods of which nothing was run on any of the tasks."""
    return [m for m in view.skipping if not any(curve_points(view, m, [task]) for task in tasks)]


def figure3(view: View) -> Picture:
    """The paper's figure 3: macro F1 against skipped share on its question-answering task, every method."""
    figure, (axes,) = style.panels(1, 1, 9.4, 4.4)
    tasks = [FIGURE3[0]]
    axes.set(title=f"{short(tasks[0])}: quality against skipped layers", xlabel=SHARE, ylabel="macro F1, %")
    _all_methods(view, axes, tasks, interval=True)
    common.whiskers(axes, view, view.points("ours", tasks), tasks, style.OURS)
    style.legend(figure, handles(view.compared, absent=_absent(view, tasks)))
    style.note(figure, facts(view, tasks, BANDS, "whiskers and grey band: 95 % bootstrap intervals"))
    return Picture(
        figure, "Line chart of macro F1 against the share of layers skipped, every method. The table figure3 holds "
        "the numbers.",
        "The paper's figure 3. Lines join a method's settings; each begins with nothing skipped.",
    )  # fmt: skip


def quality_vs_skip(view: View) -> Picture:
    """Small multiples: the averages and every task, every method."""
    found = view.groups_and_tasks
    figure, grid = style.panels(len(found), min(5, math.ceil(len(found) / 2)), 3.0, 2.6, room=1.2)
    for axes, group in zip(grid, found, strict=True):
        several = f"Mean {group.score}, {len(group.tasks)} tasks"
        axes.set_title(several if len(group.tasks) > 1 else group.heading)
        _all_methods(view, axes, group.tasks)
    style.legend(figure, handles(view.compared, absent=_absent(view, view.tasks)))
    y = "y: macro F1 in % (understanding), BLEU (translation)"
    style.note(figure, f"x: {SHARE}; {y}; {facts(view, view.tasks, BANDS)}")
    return Picture(
        figure, "Small line charts, one per average and task, of every method. The settings table holds the numbers.",
        "Lines join a method's settings; each begins with nothing skipped. A line that stays level loses nothing. The "
        "dashed level is vanilla, with nothing skipped; a second one, if there is one, was trained as long as ours.",
    )  # fmt: skip
