"""Every table of the report: built once, written as CSV and Markdown, and shown in the page.

A number that was not run reads "not run" everywhere; one that does not apply is left empty ("–" for people).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlskip.config import read_yaml
from dlskip.report.stats import Run
from dlskip.report.table import NOT_RUN, Spread, Table, spread
from dlskip.report.view import VANILLA, View, batch_label, short

PAPER = read_yaml(Path(__file__).with_name("paper.yaml"))


def build(views: Sequence[View]) -> list[Table]:
    """All tables over all backbones."""
    makers = (headline, nlu, mt, settings, variance, speed, glue_metrics, cost)
    needs = {nlu: views[0].nlu, glue_metrics: views[0].nlu, mt: views[0].mt}
    return [maker(views) for maker in makers if needs.get(maker, True)]


def missing_note(views: Sequence[View]) -> str:
    """Names the evaluations of the grid that are not on disk."""
    missing = [cell for cell in views[0].found.missing if cell.startswith("evaluations")]
    return f" Not run: {', '.join(missing)}." if missing else ""


def _n(view: View, tasks: Sequence[str]) -> str:
    return "; n = " + ", ".join(f"{short(t)} {view.n.get(t, NOT_RUN)}" for t in tasks)


def headline(views: Sequence[View]) -> Table:
    """Vanilla, ours and the random control at the headline setting."""
    rows = []
    for view in views:
        h = view.headline
        named = [("vanilla", VANILLA), ("ours, nothing skipped", h.full), ("ours", h.ours), ("random", h.random)]
        for name, run in named:
            row: list[Any] = [view.backbone, name, None if run.setting == "full" else run.setting]
            for tasks, metric in ((view.nlu, "f1_macro"), (view.mt, "bleu")):
                if tasks:
                    delta = None if run == VANILLA else view.bootstrap.difference(run, VANILLA, tasks)
                    row += [spread(view.over(run, metric, tasks)), delta, spread(view.over(run, "skip_ratio", tasks))]
                    row += [None if run.setting == "full" else view.one(run, "speedup", tasks)]
                else:
                    row += [None] * 4
            rows.append(row)
    view = views[0]
    chosen = (
        "The setting is the best average among those that skip at least 25 %, chosen on these very rows."
        if view.headline.chosen
        else "The setting is the configured one (figures.headline_threshold)."
    )
    return Table(
        "headline", "Headline: the fine-tuned model, ours, and random skipping at the same measured rate",
        "Macro F1 in % and BLEU, averaged over tasks; differences to vanilla in points with the 95 % interval of a "
        f"paired bootstrap over examples; speed-up is measured in the same run (geometric mean). {chosen}"
        + f" Per task{_n(view, view.tasks)}." + missing_note(views),
        ["backbone", "method", "threshold", "NLU macro F1", "NLU vs vanilla", "NLU skipped %", "NLU speed-up", "BLEU",
         "BLEU vs vanilla", "MT skipped %", "MT speed-up"],
        rows,
    )  # fmt: skip


def _avg_best(view: View, runs: Sequence[Run], metric: str, task: str) -> tuple[Any, Any]:
    """Mean over the settings and the best of them, per seed, then over seeds."""
    frame = pd.DataFrame({run.setting: view.over(run, metric, [task]) for run in runs})
    return spread(frame.mean(axis=1)), spread(frame.max(axis=1))


def _methods(view: View) -> list[tuple[str, list[Run]]]:
    return [
        ("vanilla", [VANILLA]),
        *((f"ours {batch_label(b)}", view.runs("ours", b)) for b in view.batches),
        ("random", view.runs("random", "per_sample")),
    ]


def _skipped(view: View, runs: Sequence[Run], tasks: Sequence[str]) -> float:
    return float(np.mean([view.one(run, "skip_ratio", tasks) for run in runs]))


def _paper_rows(kind: str, tasks: Sequence[str], cells: int) -> list[list[Any]]:
    """The paper's rows, if any task is the paper's; ``cells`` columns per task, AVG and BEST first."""
    rows: list[list[Any]] = []
    for method, published in PAPER[kind].items():
        if any(task in published for task in tasks):
            row: list[Any] = ["", f"{PAPER['source']}: {method}"]
            for task in tasks:
                known = published.get(task, [None, None])
                row += [None if v is None else float(v) for v in known] + [None] * (cells - 2)
            rows.append([*row, None])
    return rows


def nlu(views: Sequence[View]) -> Table:
    """Table 1 (and table 5, one block per backbone): macro F1, AVG and BEST over the thresholds."""
    tasks = views[0].nlu
    rows: list[list[Any]] = []
    for view in views:
        for name, runs in _methods(view):
            cells = [cell for task in tasks for cell in _avg_best(view, runs, "f1_macro", task)]
            rows.append([view.backbone, name, *cells, _skipped(view, runs, tasks)])
    return Table(
        "nlu", "Understanding: macro F1, average (AVG) and best (BEST) over the thresholds",
        "In %. Random skips at the rate measured for ours per sample, with the same weights"
        f"{_n(views[0], tasks)}. The paper calls its metric F1; rows marked with its name are its published numbers."
        + missing_note(views),
        ["backbone", "method", *(f"{short(t)} {c}" for t in tasks for c in ("AVG", "BEST")), "skipped %"],
        rows + _paper_rows("nlu", tasks, 2),
    )  # fmt: skip


def mt(views: Sequence[View]) -> Table:
    """Table 2: BLEU, AVG and BEST over the thresholds, chrF beside."""
    tasks, rows = views[0].mt, []
    for view in views:
        for name, runs in _methods(view):
            cells: list[Any] = []
            for task in tasks:
                cells += [*_avg_best(view, runs, "bleu", task), _avg_best(view, runs, "chrf", task)[0]]
            rows.append([view.backbone, name, *cells, _skipped(view, runs, tasks)])
    signatures = views[0].found.signatures
    signed_by = "; ".join(f"{short(t)}: BLEU {s['bleu']}, chrF {s['chrf']}" for t, s in signatures.items())
    return Table(
        "mt", "Translation: BLEU, average (AVG) and best (BEST) over the thresholds, with chrF (AVG)",
        f"0 to 100{_n(views[0], tasks)}. Signatures: {signed_by or NOT_RUN}." + missing_note(views),
        ["backbone", "method", *(f"{short(t)} {c}" for t in tasks for c in ("AVG", "BEST", "chrF")), "skipped %"],
        rows + _paper_rows("mt", tasks, 3),
    )  # fmt: skip


def settings(views: Sequence[View]) -> Table:
    """Every setting: quality and skipped share of every task."""
    tasks, rows = views[0].tasks, []
    for view in views:
        runs = [VANILLA, *(Run("ours", "full", b) for b in view.batches)]
        runs += [r for b in view.batches for r in view.runs("ours", b)] + view.runs("random", "per_sample")
        for run in runs:
            setting = None if run.setting == "full" else run.setting
            row: list[Any] = [view.backbone, run.method, batch_label(run.batch), setting]
            for task in tasks:
                row += [spread(view.over(run, view.quality(task), [task])), view.one(run, "skip_ratio", [task])]
            rows.append(row)
    return Table(
        "settings", "Every setting: quality and share of layers skipped",
        f"Macro F1 in % (understanding), BLEU (translation), skipped share in %{_n(views[0], tasks)}."
        + missing_note(views),
        ["backbone", "method", "batch", "threshold", *(f"{short(t)}{c}" for t in tasks for c in ("", " skipped"))],
        rows,
    )  # fmt: skip


def skip_spread(view: View, run: Run, task: str) -> float:
    """Average over layers of the per-layer standard deviation of the 0/1 skip over samples (eqs 14-15)."""
    rows = view.layers
    where = (rows["method"] == run.method) & (rows["setting"] == run.setting) & (rows["batch"] == run.batch)
    return float(rows[where & (rows["task"] == task)].groupby("seed")["skip_std"].mean().mean())


def variance(views: Sequence[View]) -> Table:
    """Table 3: how much the skipped layers differ between samples."""
    rows = []
    for view in views:
        h = view.headline
        for task in view.tasks:
            runs = [*view.runs("ours", h.ours.batch), h.random]
            paper = PAPER["variance"].get(task)
            rows.append([view.backbone, short(task), *(skip_spread(view, r, task) for r in runs), paper])
    return Table(
        "variance", "Skip variance per data set (the paper's table 3)",
        "Average over layers of the standard deviation, over samples, of the 0/1 skip of the prompt's decision "
        "(eqs 14-15; 0 = the same layers for every sample, 0.5 at most). The paper calls it a variance."
        + missing_note(views),
        ["backbone", "task", *(f"ours at {t}" for t in views[0].thresholds), "random at the headline rate",
         PAPER["source"]],
        rows, 2,
    )  # fmt: skip


def speed(views: Sequence[View]) -> Table:
    """Measured speed-up beside the layers that ran and what they would allow."""
    rows = []
    for view in views:
        for run in [r for b in view.batches for r in view.runs("ours", b)] + view.runs("random", "per_sample"):
            row: list[Any] = [view.backbone, run.method, batch_label(run.batch), run.setting]
            for tasks in (view.nlu, view.mt):
                ran = 100 - view.one(run, "skip_ratio", tasks)
                row += [ran, view.one(run, "speedup", tasks), 100 / ran] if tasks else [None] * 3
            rows.append(row)
    return Table(
        "speed", "Measured speed-up beside the layers that ran",
        "Time at full depth over time with the policy, same weights, same batches, same output lengths, same run; "
        "geometric mean over tasks. Layers run in % (counted); ideal = if a layer's time were all the time."
        + missing_note(views),
        ["backbone", "method", "batch", "threshold",
         *(f"{k} {c}" for k in ("NLU", "MT") for c in ("layers run %", "speed-up", "ideal"))],
        rows,
    )  # fmt: skip


def glue_metrics(views: Sequence[View]) -> Table:
    """GLUE's own metrics beside macro F1."""
    rows = []
    metrics = ("f1_macro", "accuracy", "f1", "mcc", "invalid_rate")
    for view in views:
        h = view.headline
        for task in view.nlu:
            for name, run in (("vanilla", VANILLA), ("ours", h.ours), ("random", h.random)):
                ran = not np.isnan(view.one(run, "f1_macro", [task]))
                cells = [spread(view.over(run, m, [task])) for m in metrics]
                shown = [c if not ran or isinstance(c, Spread) or not np.isnan(c) else None for c in cells]
                rows.append([view.backbone, short(task), name, *shown, view.n.get(task, NOT_RUN)])
    return Table(
        "glue_metrics", "Understanding: GLUE's own metrics at the headline setting",
        "In % (Matthews correlation x 100). F1 of the positive label and Matthews correlation where GLUE uses them; "
        "invalid = answers that are none of the labels, counted as wrong." + missing_note(views),
        ["backbone", "task", "method", "macro F1", "accuracy", "F1", "Matthews", "invalid", "n"],
        rows,
    )  # fmt: skip


def cost(views: Sequence[View]) -> Table:
    """What each cell of the pipeline took, from its provenance."""
    rows: list[list[Any]] = []
    for cell, record in views[0].found.provenance.items():
        rows.append([cell, record["stage"], record["seconds"] / 60, record["peak_memory_mb"] / 1024, record["device"]])
    if rows:
        most = max(row[3] for row in rows)
        rows.append(["all", "", sum(row[2] for row in rows), most, ""])
    return Table(
        "cost", "What it cost",
        "Wall clock of each cell that trains or evaluates, and the peak memory of its process. The stages that prepare "
        "the backbone and the rows, and draw this report, add about a minute.",
        ["cell", "stage", "minutes", "peak memory, GiB", "device"],
        rows,
    )  # fmt: skip


def plot_data(view: View) -> dict[str, pd.DataFrame]:
    """The small CSV files that ``dvc plots`` draws: quality against skipped share, and the RL reward."""
    points = []
    for batch in view.batches:
        points += view.runs("ours", batch)
    rows = [
        {"method": r.method, "batch": r.batch, "setting": r.setting,
         "skip_ratio": view.one(r, "skip_ratio", view.nlu) / 100, "f1_macro": view.one(r, "f1_macro", view.nlu) / 100}
        for r in [VANILLA, *points, *view.runs("random", "per_sample")]
    ]  # fmt: skip
    curves = view.curves[(view.curves["stage"] == "rl") & (view.curves["metric"] == "reward")]
    reward = curves.groupby("step")["value"].mean().rename("reward").reset_index()
    return {"quality_points": pd.DataFrame(rows).dropna(), "rl_curve": reward}
