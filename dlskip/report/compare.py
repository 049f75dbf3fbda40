"""Tables that compare methods at equal cost: at the same measured share, by the area under the curve, and ablations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlskip.methods.names import title
from dlskip.report import notes
from dlskip.report.matched import Curve, common, curve, curves
from dlskip.report.stats import Condition, difference, estimate
from dlskip.report.table import NOT_REACHED, Table, spread
from dlskip.report.view import View, short

SHARES = (10.0, 20.0, 30.0, 40.0, 50.0)  # % of the layers
NO_RANGE = "no common range"
FIGURE3 = ("qnli", "qqp")  # the task of the paper's figure 3, and the one that it has among its prompts alone


def matched(views: Sequence[View]) -> Table:
    """Quality at common shares, and ours less each method there."""
    found = [(view.backbone, group.label, curves(view, group.tasks)) for view in views for group in view.groups]
    reached = [x for x in SHARES if any(of["ours"].reaches(x) for *_, of in found if "ours" in of)]
    rows: list[list[Any]] = []
    for backbone, label, of in found:
        for method, its in of.items():
            ours = of.get("ours") if method != "ours" else None
            row: list[Any] = [backbone, title(method), label, span(its.span) if its.ran else np.nan]
            row += [_at(x, its) for x in SHARES]
            rows.append([*row, *(_at(x, ours, its) if ours else None for x in reached)])
    return Table(
        "matched", "Quality at the same measured share of layers skipped",
        "Macro F1 in % (understanding) and BLEU (translation), averaged over tasks, at the share at the head of the "
        "column: read off the line through a method's measured settings, which begins with nothing skipped (its own "
        "unskipped run, which the random control shares with ours; else vanilla). Nothing is extrapolated: "
        f"“{NOT_REACHED}” = no setting skipped that much. Differences are ours less the method of the row, in points. "
        + notes.intervals(views),
        ["backbone", "method", "tasks", "skipped, % (measured)", *(f"at {x:.0f} %" for x in SHARES),
         *(f"ours − it at {x:.0f} %" for x in reached)],
        rows,
    )  # fmt: skip


def span(over: tuple[float, float] | None) -> str:
    """A range of shares for people."""
    return NO_RANGE if over is None else f"{over[0]:.1f} to {over[1]:.1f}"


def _at(share: float, its: Curve, less_than: Curve | None = None) -> Any:
    """A curve's quality at a share, or the difference to another one there, as an entry of a table."""
    both = [its] if less_than is None else [its, less_than]
    if not all(curve.ran for curve in both):
        return np.nan
    if not all(curve.reaches(share) for curve in both):
        return NOT_REACHED
    return estimate(its.at(share)) if less_than is None else difference(its.at(share), less_than.at(share))


def figure3(views: Sequence[View]) -> Table:
    """The paper's figure 3 in numbers: macro F1 of each method on QNLI, and on QQP, at rising shares."""
    tasks = [task for task in FIGURE3 if task in views[0].tasks]
    rows: list[list[Any]] = []
    for view in views:
        for task in tasks:
            for method, its in curves(view, [task]).items():
                row: list[Any] = [view.backbone, short(task), title(method), span(its.span) if its.ran else np.nan]
                rows.append([*row, *(_at(x, its) for x in (0.0, *SHARES))])
    return Table(
        "figure3",
        f"{' and '.join(map(short, tasks))}: macro F1 against the share of layers skipped (the paper's figure 3)",
        "In %, read off the line through a method's measured settings, which begins with nothing skipped. Nothing is "
        f"extrapolated: “{NOT_REACHED}” = no setting skipped that much. The paper's text says that "
        "skipping nearly 30 % of the layers can even improve F1. " + notes.intervals(views),
        ["backbone", "task", "method", "skipped, % (measured)", *(f"at {x:.0f} %" for x in (0.0, *SHARES))],
        rows,
    )  # fmt: skip


def auc(views: Sequence[View]) -> Table:
    """Area under quality against the skipped share, over the range that all methods cover."""
    rows: list[list[Any]] = []
    for view in views:
        for group in view.groups_and_tasks:
            found = curves(view, group.tasks)
            over, ours = common(found.values()), found.get("ours", Curve({}, {}))
            for method, its in found.items():
                area, gap = _areas(over, its, ours, its)
                rows.append([view.backbone, title(method), group.label, span(over), area])
                rows[-1].append(None if method == "ours" else gap)
    return Table(
        "auc", "Area under quality against the measured share of layers skipped",
        "Macro F1 in % (understanding) and BLEU (translation): the mean height of the line through a method's measured "
        "settings over the range given, which is what all methods of these tasks (and all seeds) cover; so it reads as "
        "a mean quality; a method that loses nothing keeps its unskipped quality. Differences are ours less the method "
        "of the row, in points. Lines begin with nothing skipped: a method's own unskipped run, which the random "
        "control shares with ours; else vanilla. " + notes.intervals(views),
        ["backbone", "method", "tasks", "range, % skipped", "AUC", "ours − it"],
        rows,
    )  # fmt: skip


def _areas(over: tuple[float, float] | None, its: Curve, one: Curve, other: Curve) -> list[Any]:
    """A curve's area, and one curve's less another's, over a range, as entries of a table."""
    if not its.ran:
        return [np.nan, np.nan]
    if over is None:
        return [NO_RANGE, NO_RANGE]
    gap = difference(one.area(*over), other.area(*over)) if one.ran and other.ran else np.nan
    return [estimate(its.area(*over)), gap]


def ablations(views: Sequence[View]) -> Table:
    """Our method with one part changed or left out: at the headline threshold, and over all thresholds."""
    heads: list[str] = []
    rows: list[list[Any]] = []
    for group in views[0].groups:
        names = (group.score, "less it", "skipped %", "AUC range, %", "AUC", "AUC less it")
        heads += [f"{group.name.capitalize()}: {name}" for name in names]
    for view in views:
        for method in ["ours", *view.ablations]:
            other = view.against(method)
            run = _by_sample(view, method)
            row: list[Any] = [view.backbone, title(method), _change(view, method), title(other) if other else None]
            for tasks in (group.tasks for group in view.groups):
                delta = view.bootstrap.difference(run, _by_sample(view, other), tasks) if other else None
                row += [spread(view.quality(run, tasks)), delta, spread(view.over(run, "skip_ratio", tasks))]
                row += _against(view, method, other, tasks) if other else [None] * 3
            rows.append(row)
    settings = ", ".join(dict.fromkeys(view.headline.ours.setting.label() for view in views))
    return Table(
        "ablations", "Ablations: our method with one part changed or left out",
        f"At {settings} (conditioned on the price: where the share is nearest), decided sample by sample. Each variant "
        "is compared with the one that it differs from in what is changed alone; differences are the variant less that "
        "one, in points. A variant that scores higher and skips less has not won: its AUC, the mean quality over the "
        "shares that both of the two cover, compares them at equal cost. "
        + notes.intervals(views),
        ["backbone", "variant", "what is changed", "compared with", *heads], rows,
    )  # fmt: skip


def _by_sample(view: View, method: str) -> Condition:
    """A learned method at the headline threshold, deciding sample by sample as the ablations do.

    One that is conditioned on the price: at the price at which it skips most nearly as much.
    """
    run = Condition(method, view.headline.ours.setting, view.batch_alone(method))
    if method not in view.priced:
        return run
    return view.nearest(method, view.share(view.headline.ours, view.tasks), view.tasks) or run


def _against(view: View, method: str, other: str, tasks: Sequence[str]) -> list[Any]:
    """A variant's AUC over the range that it shares with its counterpart, and how it differs."""
    its, theirs = (curve(view, m, tasks, view.batch_alone(m)) for m in (method, other))
    over = common([its, theirs])
    return [span(over), *_areas(over, its, its, theirs)] if its.ran and theirs.ran else [np.nan] * 3


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
