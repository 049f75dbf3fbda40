"""Every table of the report: built once, written as CSV and Markdown, and shown in the page.

A number that was not run reads "not run" everywhere; one that does not apply is left empty ("–" for people).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from dlskip.methods.names import title
from dlskip.methods.settings import PER_SAMPLE
from dlskip.report import budget, claims, compare, notes, paper_tables
from dlskip.report import headline as headlines
from dlskip.report.matched import Rival, rivals
from dlskip.report.stats import Condition, difference
from dlskip.report.table import NOT_REACHED, NOT_RUN, Table, spread
from dlskip.report.view import LONG, TIMED, VANILLA, View, batch_label, short


def build(views: Sequence[View], said: Sequence[claims.Claim]) -> list[Table]:
    """All tables over all backbones; the headline first."""
    makers = [headline]
    makers += [paper_tables.nlu, paper_tables.per_backbone, glue_metrics] if views[0].nlu else []
    makers += [paper_tables.mt] if views[0].mt else []
    makers += [compare.figure3] if set(compare.FIGURE3) & set(views[0].tasks) else []
    makers += [compare.matched, compare.auc, measured_speed, settings, paper_tables.variance, budget.cost]
    makers += [compare.ablations] if views[0].ablations else []
    made = [*(maker(views) for maker in makers), claims.table(views, said)]
    made = [replace(table, note=table.note + notes.missing(views)) for table in made]
    made += [paper_tables.backbones(views), budget.budget(views)]
    return [replace(table, note=notes.smoke(views) + table.note) for table in made]


def headline(views: Sequence[View]) -> Table:
    """Vanilla, ours and the random control at the headline setting; every baseline at the share that ours skips."""
    rows: list[list[Any]] = []
    for view in views:
        h = view.headline
        named = [(title(run.method), run) for run in (VANILLA, LONG) if run.method in ("vanilla", *view.unskipped)]
        named += [("Ours, nothing skipped", h.full), ("Ours", h.ours), (title("random"), h.random)]
        for name, run in named:
            row: list[Any] = [view.backbone, name, _setting(run)]
            timed = not run.setting.full_depth and run.method != "random"  # which takes as long as ours does
            for tasks in (view.nlu, view.mt):
                delta = None if run == VANILLA else view.bootstrap.difference(run, VANILLA, tasks)
                measured = [spread(view.quality(run, tasks)), delta, spread(view.over(run, "skip_ratio", tasks))]
                row += [*measured, view.speedup(run, tasks) if timed else None] if tasks else [None] * 4
            rows.append(row)
        there = [{r.method: r for r in rivals(view, tasks)} if tasks else {} for tasks in (view.nlu, view.mt)]
        for method in view.baselines:
            row = [view.backbone, f"{title(method)}, at ours' share", None]
            for tasks, found in zip((view.nlu, view.mt), there, strict=True):
                row += _at_our_share(view, tasks, found[method]) if tasks else [None] * 4
            rows.append(row)
    view = views[0]
    return Table(
        "headline", "Headline: the fine-tuned model, ours, random skipping at the same measured rate, the baselines",
        "Macro F1 in % and BLEU, averaged over tasks; differences to vanilla in points; speed-up: of prefill for "
        "understanding, of decoding for translation, against full depth with the same weights in the same run. "
        "“At ours' share” is read off the line between a method's measured settings; "
        f"“{NOT_REACHED}” = it skips less than that. {headlines.choice(view)} {notes.intervals(views)}"
        f" Per task{notes.sizes(view, view.tasks)}.",
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
        for entries in (dict(zip(whole.columns, row, strict=True)) for row in whole.rows):
            name, _, where = entries["method"].partition(", at ours'")
            if entries["backbone"] == view.backbone and (not where or name in best):
                rows.append([entries[column] for column in kept])
    rival = "the strongest baseline of each kind of task, where it skips as much" if views[0].baselines else "alone"
    return Table(
        "summary", "The fine-tuned model, ours, chance at the same measured rate, and the strongest baseline",
        f"{notes.smoke(views)}Macro F1 in % and BLEU, averaged over tasks; measured speed-up of prefill, "
        f"of decoding; {rival}. "
        "Intervals, settings and all methods: [headline.md](reports/tables/headline.md)." + notes.missing(views),
        kept, rows,
    )  # fmt: skip


def _at_our_share(view: View, tasks: Sequence[str], rival: Rival) -> list[Any]:
    """Quality, difference to vanilla, share and speed-up of a baseline where it skips as much as ours does."""
    if not rival.ran:
        return [np.nan, np.nan, np.nan, None]
    if not rival.there:
        return [NOT_REACHED, NOT_REACHED, NOT_REACHED, None]
    by_seed = pd.Series({seed: draws[0] for seed, draws in rival.there.items()})
    delta = difference(rival.there, view.bootstrap.drawn(VANILLA, tasks))
    return [spread(by_seed), delta, spread(view.over(view.headline.ours, "skip_ratio", tasks)), None]


def settings(views: Sequence[View]) -> Table:
    """Every setting: quality and skipped share of every task."""
    tasks = views[0].tasks
    rows: list[list[Any]] = []
    for view in views:
        for run in view.every():
            row: list[Any] = [view.backbone, title(run.method), batch_label(run.batch), _setting(run)]
            for task in tasks:
                row += [spread(view.quality(run, [task])), view.share(run, [task])]
            rows.append(row)
    return Table(
        "settings", "Every setting: quality and share of layers skipped",
        f"Macro F1 in % (understanding), BLEU (translation), skipped share in %{notes.sizes(views[0], tasks)}. A "
        "setting is a threshold, or the share of layers asked for (the measured one is rounded to whole layers)."
        + notes.seeds(views),
        ["backbone", "method", "batch", "setting", *(f"{short(t)}{c}" for t in tasks for c in ("", " skipped"))],
        rows,
    )  # fmt: skip


def _setting(run: Condition) -> str | None:
    """A run's setting for people; at full depth there is nothing to say."""
    return None if run.setting.full_depth else run.setting.label()


def measured_speed(views: Sequence[View]) -> Table:
    """Table 6, which the paper lacks: prefill and decoding, timed apart, beside the layers that ran."""
    rows: list[list[Any]] = []
    for view in views:
        for method in view.timed:
            batches = [*view.timed_batches, *([PER_SAMPLE] if method == "ours" else [])]
            for run in (run for batch in batches for run in view.conditions(method, batch)):
                row: list[Any] = [view.backbone, title(method), batch_label(run.batch), _setting(run)]
                for phase in ("prefill", "decode"):
                    row.append(100 - view.speed(run, f"skip_{phase}"))
                    row += [spread(view.over(run, f"{m}_{phase}", [TIMED])) for m in ("speedup", "ms")]
                rows.append(row)
    return Table(
        "measured_speed", "Measured speed: prefill and decoding (the paper has no such table)",
        "Prefill of understanding prompts, decoding of a fixed number of tokens of translations. Layers run in %, "
        "counted in the timed run; speed-up = full depth's time over this one's, same weights, same run, medians; "
        "milliseconds per batch (prefill) and per token step (decoding). Below 1 = slower than nothing skipped. A "
        "statement about this machine." + notes.seeds(views),
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
            named: dict[str, Condition | None] = {m: VANILLA._replace(method=m) for m in view.unskipped}
            named |= {"ours": h.ours, "random": h.random}
            share = view.share(h.ours, [task])
            for method, run in (named | {m: view.nearest(m, share, [task]) for m in view.baselines}).items():
                entries: list[Any] = [np.nan] * (1 + len(metrics))
                if run and len(view.quality(run, [task])):
                    values = [view.over(run, m, [task]) for m in metrics]
                    entries = [view.share(run, [task]), *(spread(v) if len(v) else None for v in values)]
                rows.append([view.backbone, short(task), title(method), *entries, view.n.get(task, NOT_RUN)])
    return Table(
        "glue_metrics", "Understanding: GLUE's own metrics at the headline setting",
        "In % (Matthews correlation x 100). Baselines: at the setting whose measured share is nearest to ours'. F1 of "
        "the positive label and Matthews correlation where GLUE uses them; invalid = answers that are none of the "
        "labels, counted as wrong." + notes.seeds(views),
        ["backbone", "task", "method", "skipped %", "macro F1", "accuracy", "F1", "Matthews", "invalid", "n"],
        rows,
    )  # fmt: skip


def plot_data(view: View) -> dict[str, pd.DataFrame]:
    """The small CSV files that ``dvc plots`` draws: quality against skipped share, and the RL reward."""
    rows = [
        {"method": r.method, "batch": r.batch, "setting": r.setting.label(),
         "skip_ratio": view.share(r, view.nlu) / 100, "f1_macro": view.one(r, "f1_macro", view.nlu) / 100}
        for r in view.every()
    ]  # fmt: skip
    chosen = (view.curves["stage"] == "rl") & (view.curves["metric"] == "reward")
    curves = view.curves[chosen & (view.curves["variant"].fillna("") == "")]
    reward = curves.groupby("step")["value"].mean().rename("reward").reset_index()
    return {"quality_points": pd.DataFrame(rows).dropna(), "rl_curve": reward}
