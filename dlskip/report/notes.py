"""What stands beneath more than one table."""

from __future__ import annotations

from collections.abc import Sequence

from dlskip.report.stats import DRAWS
from dlskip.report.table import NOT_RUN
from dlskip.report.view import View, short


def smoke(views: Sequence[View]) -> str:
    """What a smoke run's tables begin with."""
    said = "A smoke run: tiny models with random weights, a few steps. It says nothing of quality. "
    return said if views[0].found.params.recipe == "smoke" else ""


def missing(views: Sequence[View]) -> str:
    """Names the evaluations and measurements of speed of the grid that are not on disk."""
    lost = [path for path in views[0].found.missing if path.startswith(("evaluations", "speeds"))]
    return f" Not run: {', '.join(lost)}." if lost else ""


def sizes(view: View, tasks: Sequence[str]) -> str:
    """How many test examples each task has."""
    return "; n = " + ", ".join(f"{short(t)} {view.n.get(t, NOT_RUN)}" for t in tasks)


def decoding(views: Sequence[View]) -> str:
    """How translations were made."""
    beams = views[0].found.params.evaluate.beams
    return "Greedy decoding." if beams == 1 else f"Beam search with {beams} beams; skipped shares are of all beams."


def intervals(views: Sequence[View]) -> str:
    """What the intervals are and what they cannot say."""
    seeds = len(views[0].found.params.grid.seeds)
    over = (
        "test examples only: there is one seed, so they say nothing of other training runs"
        if seeds == 1
        else f"test examples and over {seeds} seeds (so few seeds bound the variation between training runs loosely)"
    )
    return (
        f"Intervals: 95 %, paired bootstrap with {DRAWS} draws over {over}. A difference whose interval covers zero is "
        "not distinguishable. Intervals are not widened for the number of comparisons."
    )


def seeds(views: Sequence[View]) -> str:
    """What ± stands for, if there is any."""
    count = len(views[0].found.params.grid.seeds)
    return f" ±: standard deviation over {count} seeds." if count > 1 else " One seed."
