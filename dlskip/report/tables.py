"""Every table of the report: built once, written as CSV and Markdown, and shown in the page.

A number that was not run reads "not run" everywhere; one that does not apply is left empty ("–" for people).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dlskip.methods.names import title
from dlskip.methods.settings import FULL, PER_SAMPLE, rule_of
from dlskip.report import budget, claims, compare, notes, paper_tables
from dlskip.report import headline as headlines
from dlskip.report.matched import Rival, rivals
from dlskip.report.stats import Condition, estimate, less
from dlskip.report.table import NOT_REACHED, NOT_RUN, Table, spread
from dlskip.report.view import VANILLA, View, batch_label, short


def build(views: Sequence[View], said: Sequence[claims.Claim]) -> list[Table]:
    """All tables over all backbones; the headline first."""
    nlu, mt = bool(views[0].nlu), bool(views[0].mt)
    makers: list[tuple[Callable[[Sequence[View]], Table], bool]] = [
        (headline, True), (paper_tables.nlu, nlu), (paper_tables.mt, mt), (compare.matched, True), (compare.auc, True),
        (paper_tables.variance, True), (paper_tables.backbones, True), (paper_tables.per_backbone, nlu),
        (measured_speed, True), (settings, True), (glue_metrics, nlu),
        (compare.ablations, bool(views[0].ablations)), (budget.budget, True), (budget.cost, True),
    ]  # fmt: skip
    made = [*(maker(views) for maker, wanted in makers if wanted), claims.table(views, said)]
    return [replace(table, note=notes.smoke(views) + table.note) for table in made]


def headline(views: Sequence[View]) -> Table:
    """Vanilla, ours and the random control at the headline setting; every baseline at the share that ours skips."""
    rows: list[list[Any]] = []
    for view in views:
        h = view.headline
        named = [("Vanilla", VANILLA), ("Ours, nothing skipped", h.full), ("Ours", h.ours), (title("random"), h.random)]
        for name, run in named:
            row: list[Any] = [view.backbone, name, _setting(run)]
            for tasks, metric in ((view.nlu, "f1_macro"), (view.mt, "bleu")):
                if tasks:
                    delta = None if run == VANILLA else view.bootstrap.difference(run, VANILLA, tasks)
                    row += [spread(view.over(run, metric, tasks)), delta, spread(view.over(run, "skip_ratio", tasks))]
                    timed = not run.setting.full_depth and run.method != "random"  # which takes as long as ours does
                    row += [float(view.speedup(run, tasks).mean()) if timed else None]
                else:
                    row += [None] * 4
            rows.append(row)
        cells: dict[str, list[Any]] = {method: [] for method in view.baselines}
        for tasks in (view.nlu, view.mt):
            there = {rival.method: rival for rival in rivals(view, tasks)} if tasks else {}
            for method in view.baselines:
                cells[method] += _at_our_share(view, tasks, there.get(method)) if tasks else [None] * 4
        rows += [[view.backbone, f"{title(method)}, at ours' share", None, *cells[method]] for method in view.baselines]
    view = views[0]
    return Table(
        "headline", "Headline: the fine-tuned model, ours, random skipping at the same measured rate, the baselines",
        "Macro F1 in % and BLEU, averaged over tasks; differences to vanilla in points; speed-up: of prefill for "
        "understanding, of decoding for translation, against full depth with the same weights in the same run. "
        "“At ours' share” is read off the line between a method's measured settings; "
        f"“{NOT_REACHED}” = it skips less than that. {headlines.choice(view)} {notes.intervals(views)}"
        f" Per task{notes.sizes(view, view.tasks)}." + notes.missing(views),
        ["backbone", "method", "setting", "NLU macro F1", "NLU vs vanilla", "NLU skipped %", "NLU speed-up", "BLEU",
         "BLEU vs vanilla", "MT skipped %", "MT speed-up"],
        rows,
    )  # fmt: skip


def summary(views: Sequence[View], whole: Table) -> Table:
    """What a first screen has room for of the headline: no intervals, and of the baselines the best of each kind."""
    kept = ["method", "NLU macro F1", "NLU skipped %", "NLU speed-up", "BLEU", "MT skipped %", "MT speed-up"]
    kept = [*(["backbone"] if len(views) > 1 else []), *kept]
    rows: list[list[Any]] = []
    for view in views:
        best = {title(rivals(view, tasks)[0].method) for tasks in (view.nlu, view.mt) if tasks and view.baselines}
        for row in whole.rows:
            cells = dict(zip(whole.columns, row, strict=True))
            name, _, where = cells["method"].partition(", at ours'")
            if cells["backbone"] == view.backbone and (not where or name in best):
                rows.append([cells[column] for column in kept])
    rival = "the strongest baseline of each kind of task, where it skips as much" if views[0].baselines else "alone"
    return Table(
        "summary", "The fine-tuned model, ours, chance at the same measured rate, and the strongest baseline",
        f"{notes.smoke(views)}Macro F1 in % and BLEU, averaged over tasks; measured speed-up of prefill, "
        f"of decoding; {rival}. "
        "Intervals, settings and all methods: [headline.md](reports/tables/headline.md)." + notes.missing(views),
        kept, rows,
    )  # fmt: skip


def _at_our_share(view: View, tasks: Sequence[str], rival: Rival | None) -> list[Any]:
    """Quality, difference to vanilla, share and speed-up of a baseline where it skips as much as ours does."""
    if rival is None or not rival.ran:
        return [np.nan, np.nan, np.nan, None]
    if not rival.there:
        return [NOT_REACHED, NOT_REACHED, NOT_REACHED, None]
    by_seed = pd.Series({seed: draws[0] for seed, draws in rival.there.items()})
    delta = estimate(less(rival.there, view.bootstrap.drawn(VANILLA, tasks)))
    return [spread(by_seed), delta, spread(view.over(view.headline.ours, "skip_ratio", tasks)), None]


def settings(views: Sequence[View]) -> Table:
    """Every setting: quality and skipped share of every task."""
    tasks = views[0].tasks
    rows: list[list[Any]] = []
    for view in views:
        for run in _every(view):
            row: list[Any] = [view.backbone, title(run.method), batch_label(run.batch)]
            row.append(_setting(run))
            for task in tasks:
                row += [spread(view.over(run, view.quality(task), [task])), view.one(run, "skip_ratio", [task])]
            rows.append(row)
    return Table(
        "settings", "Every setting: quality and share of layers skipped",
        f"Macro F1 in % (understanding), BLEU (translation), skipped share in %{notes.sizes(views[0], tasks)}. A "
        "setting is a threshold, or the share of layers asked for (the measured one is rounded to whole layers)."
        + notes.seeds(views) + notes.missing(views),
        ["backbone", "method", "batch", "setting", *(f"{short(t)}{c}" for t in tasks for c in ("", " skipped"))],
        rows,
    )  # fmt: skip


def _setting(run: Condition) -> str | None:
    """A run's setting for people; at full depth there is nothing to say."""
    return None if run.setting.full_depth else run.setting.label()


def _every(view: View) -> list[Condition]:
    """Every run: ours, whatever its batch rule, with nothing skipped too."""
    runs: list[Condition] = []
    for method in view.methods:
        batches = view.batches if method == "ours" else [view.batch_of(method)]
        if method in ("ours", *view.ablations):
            runs += [Condition(method, FULL, batch) for batch in batches]
        runs += [run for batch in batches for run in view.conditions(method, batch)]
    return runs


def measured_speed(views: Sequence[View]) -> Table:
    """Table 6, which the paper lacks: prefill and decoding, timed apart, beside the layers that ran."""
    rows: list[list[Any]] = []
    for view in views:
        named = [rule_of(b) for b in view.found.params.speed.batches]
        for method in (m for m in view.compared if m != "random"):
            batches = [*named, PER_SAMPLE] if method == "ours" else named
            for run in (run for batch in batches for run in view.conditions(method, batch)):
                row: list[Any] = [view.backbone, title(method), batch_label(run.batch)]
                row.append(_setting(run))
                for phase in ("prefill", "decode"):
                    row += [100 - float(view.speed(run, f"skip_{phase}").mean())]
                    row += [spread(view.speed(run, f"{m}_{phase}")) for m in ("speedup", "ms")]
                rows.append(row)
    return Table(
        "measured_speed", "Measured speed: prefill and decoding (the paper has no such table)",
        "Prefill of understanding prompts, decoding of a fixed number of tokens of translations. Layers run in %, "
        "counted in the timed run; speed-up = full depth's time over this one's, same weights, same run, medians; "
        "milliseconds per "
        "batch (prefill) and per token step (decoding). Below 1 = slower than nothing skipped. A statement about "
        "this machine." + notes.seeds(views) + notes.missing(views),
        ["backbone", "method", "batch", "setting",
         *(f"{p} {c}" for p in ("prefill", "decode") for c in ("layers run %", "speed-up", "ms"))],
        rows,
    )  # fmt: skip


def glue_metrics(views: Sequence[View]) -> Table:
    """GLUE's own metrics beside macro F1."""
    rows: list[list[Any]] = []
    metrics = ("f1_macro", "accuracy", "f1", "mcc", "invalid_rate")
    for view in views:
        h = view.headline
        for task in view.nlu:
            named: list[tuple[str, Condition | None]] = [("vanilla", VANILLA), ("ours", h.ours), ("random", h.random)]
            share = view.one(h.ours, "skip_ratio", [task])
            named += [(method, view.nearest(method, share, [task])) for method in view.baselines]
            for method, run in named:
                cells: list[Any] = [np.nan] * (1 + len(metrics))
                if run and not np.isnan(view.one(run, "f1_macro", [task])):
                    values = [view.over(run, m, [task]) for m in metrics]
                    cells = [view.one(run, "skip_ratio", [task]), *(spread(v) if len(v) else None for v in values)]
                rows.append([view.backbone, short(task), title(method), *cells, view.n.get(task, NOT_RUN)])
    return Table(
        "glue_metrics", "Understanding: GLUE's own metrics at the headline setting",
        "In % (Matthews correlation x 100). Baselines: at the setting whose measured share is nearest to ours'. F1 of "
        "the positive label and Matthews correlation where GLUE uses them; invalid = answers that are none of the "
        "labels, counted as wrong." + notes.seeds(views) + notes.missing(views),
        ["backbone", "task", "method", "skipped %", "macro F1", "accuracy", "F1", "Matthews", "invalid", "n"],
        rows,
    )  # fmt: skip


def plot_data(view: View) -> dict[str, pd.DataFrame]:
    """The small CSV files that ``dvc plots`` draws: quality against skipped share, and the RL reward."""
    rows = [
        {"method": r.method, "batch": r.batch, "setting": r.setting.label(),
         "skip_ratio": view.one(r, "skip_ratio", view.nlu) / 100, "f1_macro": view.one(r, "f1_macro", view.nlu) / 100}
        for r in _every(view)
    ]  # fmt: skip
    chosen = (view.curves["stage"] == "rl") & (view.curves["metric"] == "reward")
    curves = view.curves[chosen & (view.curves["variant"].fillna("") == "")]
    reward = curves.groupby("step")["value"].mean().rename("reward").reset_index()
    return {"quality_points": pd.DataFrame(rows).dropna(), "rl_curve": reward}
