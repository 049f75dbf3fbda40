"""The paper's tables 1 to 5 on what was measured, and below it what the paper published.

The paper's numbers are of other, larger models. They stand in rows of their own, which name the model and the paper's
tasks: the very tasks of the columns, or those whose form these have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlskip.config import read_yaml
from dlskip.methods.names import TABLE1, title
from dlskip.methods.settings import KNOBS, BatchRule, from_columns, rule_of
from dlskip.report import notes
from dlskip.report.stats import Condition
from dlskip.report.table import NOT_RUN, Table, spread
from dlskip.report.view import VANILLA, View, batch_label, short

PAPER = read_yaml(Path(__file__).with_name("paper.yaml"))  # published numbers
MODEL: str = PAPER["model"]


def avg_best(view: View, runs: Sequence[Condition], metric: str, task: str) -> tuple[Any, Any]:
    """Mean over the settings and the best of them, per seed, then over the seeds that ran every setting."""
    frame = pd.DataFrame({run.setting: view.over(run, metric, [task]) for run in runs}).dropna()
    return spread(frame.mean(axis=1)), spread(frame.max(axis=1))


def _label(method: str, batch: BatchRule) -> str:
    """A method's name; ours with its batch rule."""
    return f"{title(method)} {batch_label(batch)}" if method == "ours" else title(method)


def ordered(view: View) -> list[str]:
    """The paper's methods first, as in its table 1, then the control, then all others but the ablations."""
    first = [m for m in [*TABLE1, "random"] if m in view.compared]
    return [*first, *(m for m in view.compared if m not in first)]


def _paper_rows(published: Mapping[str, Mapping[str, list[float]]], tasks: Sequence[str], width: int) -> Any:
    """The paper's numbers, by name and by its task, in rows; ``width`` columns for each of ours, AVG and BEST first."""
    for name, numbers in published.items():
        known = {t: theirs for t in tasks if (theirs := t if t in numbers else PAPER["forms"].get(t)) in numbers}
        pairs = [[*map(float, numbers[known[t]])] if t in known else [None, None] for t in tasks]
        if known:
            row = ["", f"paper, {name}, on {', '.join(map(short, known.values()))}"]
            yield row + [entry for pair in pairs for entry in (*pair, *[None] * (width - 2))]


def _quality(views: Sequence[View], tasks: Sequence[str], published: Any, *metrics: str) -> tuple[list[str], Any]:
    """Columns and rows of tables 1 and 2; metrics beyond the first are shown by their AVG alone."""
    rows: list[list[Any]] = []
    for view in views:
        for method in ordered(views[0]):
            for batch in view.batches if method == "ours" else [view.batch_of(method)]:
                runs, row = view.conditions(method, batch), [view.backbone, _label(method, batch)]
                for task in tasks:
                    row += avg_best(view, runs, metrics[0], task)
                    row += [avg_best(view, runs, metric.casefold(), task)[0] for metric in metrics[1:]]
                rows.append([*row, float(np.mean([view.share(run, tasks) for run in runs]))])
    keys = {key: key.partition("/") for key in published}  # such as ours/8
    named = {f"{MODEL}: {_label(m, rule_of(b or 1))}": published[key] for key, (m, _, b) in keys.items()}
    rows += [[*row, None] for row in _paper_rows(named, tasks, 1 + len(metrics))]
    return ["backbone", "method", *(f"{short(t)} {c}" for t in tasks for c in ("AVG", "BEST", *metrics[1:])),
            "skipped %"], rows  # fmt: skip


_BESIDE = (
    " AVG and BEST are over a method's settings, and the settings of different methods skip different shares (last "
    "column): tables “matched” and “auc” compare at equal shares. What is marked “paper” is published, of a larger "
    "model and larger data, and was not measured here."
)


def nlu(views: Sequence[View]) -> Table:
    """Table 1: macro F1, AVG and BEST over the settings."""
    columns, rows = _quality(views, views[0].nlu, PAPER["nlu"], "f1_macro")
    return Table(
        "nlu", "Understanding: macro F1, average (AVG) and best (BEST) over the settings (the paper's table 1)",
        "In %. Random skips at the rate measured for ours per sample, with the same weights"
        f"{notes.sizes(views[0], views[0].nlu)}. The paper calls its metric F1.{_BESIDE}" + notes.seeds(views),
        columns, rows,
    )  # fmt: skip


def mt(views: Sequence[View]) -> Table:
    """Table 2: BLEU, AVG and BEST over the settings, chrF beside."""
    columns, rows = _quality(views, views[0].mt, PAPER["mt"], "bleu", "chrF")
    signatures = views[0].found.signatures
    signed_by = "; ".join(f"{short(t)}: BLEU {s['bleu']}, chrF {s['chrf']}" for t, s in signatures.items())
    return Table(
        "mt", "Translation: BLEU, average (AVG) and best (BEST) over the settings, chrF (AVG) (the paper's table 2)",
        f"0 to 100{notes.sizes(views[0], views[0].mt)}. {notes.decoding(views)} Signatures: {signed_by or NOT_RUN}."
        f"{_BESIDE}{notes.seeds(views)}",
        columns, rows,
    )  # fmt: skip


def variance(views: Sequence[View]) -> Table:
    """Table 3: how much the skipped layers differ between samples (eqs 14-15)."""
    rows: list[list[Any]] = []
    pairs: list[tuple[float, float]] = []  # ours at the headline's setting, and the paper's
    for view in views:
        keys = ["method", *KNOBS, "batch", "task"]
        prompts = view.layers[view.layers["phase"] == "prompt"]
        means = prompts.groupby(keys, dropna=False)["skip_std"].mean()
        named: Iterable[tuple[Any, float]] = means.items()
        spreads = {(method, from_columns(*knobs), batch, task): x for (method, *knobs, batch, task), x in named}
        for task in view.tasks:
            ours = [*view.conditions("ours", view.headline.ours.batch), view.headline.random]
            row: list[Any] = [view.backbone, short(task), *(spreads.get((*run, task), np.nan) for run in ours)]
            for method in view.baselines:
                runs = view.conditions(method, view.batch_of(method))
                row.append(float(np.mean([spreads.get((*run, task), np.nan) for run in runs])))
            theirs = task if task in PAPER["variance"] else PAPER["forms"].get(task, "")
            known = PAPER["variance"].get(theirs)
            here = spreads.get((*view.headline.ours, task), np.nan)
            pairs += [] if known is None or np.isnan(here) else [(here, known)]
            rows.append([*row, None if known is None else f"{known:.2f} on {short(theirs)}"])
    view = views[0]
    return Table(
        "variance", "Skip variance per data set (the paper's table 3)",
        "Average over layers of the standard deviation, over samples, of the 0/1 skip of the prompt's decision "
        "(eqs 14-15; 0 = the same layers for every sample, 0.5 at most); the paper calls it a variance. Baselines: "
        "mean over their settings. The last column is published, of another model, and of another data set where its "
        f"name differs from the row's.{_less_than_published(pairs)}",
        ["backbone", "task", *(f"std of ours at {t.label()}" for t in view.thresholds),
         "std of random at the headline rate", *(f"std of {title(m)}" for m in view.baselines), f"paper, {MODEL}"],
        rows,
    )  # fmt: skip


def _less_than_published(pairs: Sequence[tuple[float, float]]) -> str:
    """A sentence on how far the spread between samples, as measured and as published, lies apart."""
    if not pairs:
        return ""
    (low, high), (least, most) = ((min(column), max(column)) for column in zip(*pairs, strict=True))
    less = sum(ours < theirs for ours, theirs in pairs)
    said = f" At the headline's setting ours has {low:.2f} to {high:.2f}, the paper {least:.2f} to {most:.2f}: "
    if less < len(pairs):
        return f"{said}less than it on {less} of {len(pairs)} data sets."
    return f"{said}less on every data set. Here the controllers choose by the task more than by the sample."


def backbones(views: Sequence[View]) -> Table:
    """Table 4: the models."""
    rows: list[list[Any]] = []
    for view in views:
        known = view.found.backbones.get(view.backbone, {})
        counted = int(view.layers["layer"].max()) + 1 if len(view.layers) else None
        millions = known["parameters"] / 1e6 if "parameters" in known else None
        source = view.found.params.backbones[view.backbone].source
        rows.append([view.backbone, source, known.get("layers", counted), known.get("hidden_size"), millions])
    for name, (layers, hidden, parameters) in PAPER["backbones"].items():
        rows.append([name, "published, of the paper", layers, hidden, float(parameters)])
    return Table(
        "backbones", "Backbones (the paper's table 4)",
        "Layers, width of the hidden states, and parameters in millions. The paper's rows are as published.",
        ["backbone", "source", "layers", "hidden size", "parameters, millions"], rows,
    )  # fmt: skip


def per_backbone(views: Sequence[View]) -> Table:
    """Table 5: AVG and BEST per backbone."""
    tasks, batch = views[0].nlu, views[0].headline.ours.batch
    rows: list[list[Any]] = []
    for view in views:
        named = {title("vanilla"): [VANILLA], f"{title('ours')} {batch_label(batch)}": view.conditions("ours", batch)}
        for name, runs in named.items():
            rows.append([view.backbone, name, *(x for task in tasks for x in avg_best(view, runs, "f1_macro", task))])
    rows += _paper_rows(PAPER["per_backbone"], tasks, 2)
    return Table(
        "per_backbone", "Understanding per backbone: macro F1, AVG and BEST over the thresholds (the paper's table 5)",
        f"In %{notes.sizes(views[0], tasks)}. Rows marked “paper” are published, of other models and of the data sets "
        "that they name." + notes.seeds(views),
        ["backbone", "method", *(f"{short(t)} {c}" for t in tasks for c in ("AVG", "BEST"))], rows,
    )  # fmt: skip
