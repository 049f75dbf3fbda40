"""Tables that compare methods at equal cost: at the same measured share, by the area under the curve, and ablations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlskip.methods.names import title
from dlskip.methods.settings import BatchRule
from dlskip.report import notes
from dlskip.report.matched import Curve, common, curve
from dlskip.report.stats import Condition, Level, estimate, less
from dlskip.report.table import NOT_REACHED, Table, spread
from dlskip.report.view import View, short

SHARES = (10.0, 20.0, 30.0, 40.0, 50.0)  # % of the layers
NO_RANGE = "no common range"
METRIC = {"f1_macro": "macro F1", "bleu": "BLEU"}


def groups(view: View) -> dict[str, list[str]]:
    """The averages and every task by itself, by name."""
    found: dict[str, list[str]] = {}
    for kind, tasks in view.kinds.items():
        if len(tasks) > 1:
            found[f"{kind}, mean of {len(tasks)}"] = tasks
        found |= {short(task): [task] for task in tasks}
    return found


def means(view: View) -> dict[str, list[str]]:
    """The averages alone."""
    return {f"{kind}, mean of {len(tasks)}": tasks for kind, tasks in view.kinds.items()}


def range_of(curves: dict[str, Curve]) -> str | tuple[float, float]:
    """The range common to all curves, or why there is none."""
    return common(curves.values()) or NO_RANGE


def matched(views: Sequence[View]) -> Table:
    """Quality at common shares, and ours less each method there."""
    found = {
        (view.backbone, name): {m: curve(view, m, tasks) for m in view.compared if m != "vanilla"}
        for view in views
        for name, tasks in means(view).items()
    }
    reached = [x for x in SHARES if any(c["ours"].reaches(x) for c in found.values() if "ours" in c)]
    rows: list[list[Any]] = []
    for (backbone, name), curves in found.items():
        for method, its in curves.items():
            row: list[Any] = [backbone, title(method), name, _span(its)]
            row += [_level(its, x) for x in SHARES]
            for x in reached:
                row.append(None if method == "ours" else _gap(curves["ours"], its, x) if "ours" in curves else None)
            rows.append(row)
    return Table(
        "matched", "Quality at the same measured share of layers skipped",
        "Macro F1 in % (understanding) and BLEU (translation), averaged over tasks, at the share at the head of the "
        "column: read off the line through a method's measured settings, which begins with nothing skipped (its own "
        "unskipped run, which the random control shares with ours; else vanilla). Nothing is extrapolated: "
        f"“{NOT_REACHED}” = no setting skipped that much. Differences are ours less the method of the row, in points. "
        + notes.intervals(views) + notes.missing(views),
        ["backbone", "method", "tasks", "skipped, % (measured)", *(f"at {x:.0f} %" for x in SHARES),
         *(f"ours − it at {x:.0f} %" for x in reached)],
        rows,
    )  # fmt: skip


def _span(its: Curve) -> str | float:
    ends = [(x[0], x[-1]) for x in its.shares.values()]
    return f"{max(e[0] for e in ends):.1f} to {min(e[1] for e in ends):.1f}" if ends else np.nan


def _level(its: Curve, share: float) -> Any:
    if not its.shares:
        return np.nan
    return Level(*estimate(its.at(share))) if its.reaches(share) else NOT_REACHED


def _gap(ours: Curve, its: Curve, share: float) -> Any:
    if not ours.shares or not its.shares:
        return np.nan
    return estimate(less(ours.at(share), its.at(share))) if ours.reaches(share) and its.reaches(share) else NOT_REACHED


def auc(views: Sequence[View]) -> Table:
    """Area under quality against the skipped share, over the range that all methods cover."""
    rows: list[list[Any]] = []
    for view in views:
        for name, tasks in groups(view).items():
            curves = {m: curve(view, m, tasks) for m in view.compared if m != "vanilla"}
            over = range_of(curves)
            for method, its in curves.items():
                area, gap = areas(its, curves.get("ours"), over)
                rows.append([view.backbone, title(method), name, _words(over), area, None if method == "ours" else gap])
    return Table(
        "auc", "Area under quality against the measured share of layers skipped",
        "Macro F1 in % (understanding) and BLEU (translation): the mean height of the line through a method's measured "
        "settings over the range given, which is what all methods of these tasks (and all seeds) cover; so it reads as "
        "a mean quality; a method that loses nothing keeps its unskipped quality. Differences are ours less the method "
        "of the row, in points. Lines begin with nothing skipped: a method's own unskipped run, which the random "
        "control shares with ours; else vanilla. " + notes.intervals(views) + notes.missing(views),
        ["backbone", "method", "tasks", "range, % skipped", "AUC", "ours − it"],
        rows,
    )  # fmt: skip


def areas(its: Curve, ours: Curve | None, over: str | tuple[float, float]) -> tuple[Any, Any]:
    """A curve's area and ours' less it, as cells."""
    if not its.shares:
        return np.nan, np.nan
    if isinstance(over, str):
        return over, over
    area = its.area(*over)
    gap = estimate(less(ours.area(*over), area)) if ours and ours.shares else np.nan
    return Level(*estimate(area)), gap


def _words(over: str | tuple[float, float]) -> str:
    return over if isinstance(over, str) else f"{over[0]:.1f} to {over[1]:.1f}"


def ablations(views: Sequence[View]) -> Table:
    """Our method with one part changed or left out: at the headline threshold, and over all thresholds."""
    heads: list[str] = []
    rows: list[list[Any]] = []
    for kind, tasks in views[0].kinds.items():
        names = (METRIC[views[0].quality(tasks[0])], "less it", "skipped %", "AUC range, %", "AUC", "AUC less it")
        heads += [f"{kind.capitalize()}: {name}" for name in names]
    for view in views:
        for method in ["ours", *view.ablations]:
            other = None if method == "ours" else view.found.params.ablations.variants[method].against
            run = _by_sample(view, method)
            row: list[Any] = [view.backbone, title(method), _change(view, method), title(other) if other else None]
            for tasks in view.kinds.values():
                delta = view.bootstrap.difference(run, _by_sample(view, other), tasks) if other else None
                row += [spread(view.over(run, view.quality(tasks[0]), tasks)), delta]
                row += [spread(view.over(run, "skip_ratio", tasks))]
                row += _against(view, method, other, tasks) if other else [None] * 3
            rows.append(row)
    settings = ", ".join(dict.fromkeys(view.headline.ours.setting.label() for view in views))
    return Table(
        "ablations", "Ablations: our method with one part changed or left out",
        f"At {settings} (told a price: where the share is nearest), decided sample by sample. Each variant "
        "is compared with the one that it differs from in what is changed alone; differences are the variant less that "
        "one, in points. A variant that scores higher and skips less has not won: its AUC, the mean quality over the "
        "shares that both of the two cover, compares them at equal cost. "
        + notes.intervals(views) + notes.missing(views),
        ["backbone", "variant", "what is changed", "compared with", *heads], rows,
    )  # fmt: skip


def _by_sample(view: View, method: str) -> Condition:
    """A learned method at the headline threshold, deciding sample by sample as the ablations do.

    One that is told a price: at the price at which it skips most nearly as much.
    """
    run = Condition(method, view.headline.ours.setting, _batch(view, method))
    if method not in view.priced:
        return run
    return view.nearest(method, view.one(view.headline.ours, "skip_ratio", view.tasks), view.tasks) or run


def _batch(view: View, method: str) -> BatchRule:
    return view.batch_of(method) if "per_sample" not in view.batches else "per_sample"


def _against(view: View, method: str, other: str, tasks: Sequence[str]) -> list[Any]:
    """A variant's AUC over the range that it shares with its counterpart, and how it differs."""
    its, theirs = (curve(view, m, tasks, _batch(view, m)) for m in (method, other))
    over = common([its, theirs]) or NO_RANGE
    if not its.shares or not theirs.shares:
        return [np.nan] * 3
    if isinstance(over, str):
        return [over] * 3
    area = its.area(*over)
    return [_words(over), Level(*estimate(area)), estimate(less(area, theirs.area(*over)))]


def _change(view: View, method: str) -> str | None:
    """A variant as params.yaml defines it, in a few words."""
    if method == "ours":
        return None
    variant = view.found.params.ablations.variants[method]
    changes = [f"{section}.{_flat(values)}" for section, values in variant.set.items()]
    trained = f"trains {' and '.join(variant.stages)}" if variant.stages else "trains nothing more"
    return "; ".join([f"starts from {variant.start}", trained, *changes])


def _flat(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}.{_flat(v)}" if isinstance(v, dict) else f"{k} = {v}" for k, v in values.items())
