"""The paper's tables 1 to 5 on what was measured, beside what the paper published.

The paper's numbers are of other, larger models. On its own tasks they stand in columns beside ours; where a task only
has the form of one of its tasks they stand in rows that name the model and the paper's task.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlskip.config import read_yaml
from dlskip.methods.names import TABLE1, title
from dlskip.methods.settings import KNOBS, PER_SAMPLE, from_columns, rule_of
from dlskip.report import notes
from dlskip.report.stats import Condition
from dlskip.report.table import NOT_RUN, Table, spread
from dlskip.report.view import VANILLA, View, batch_label, short

PAPER = read_yaml(Path(__file__).with_name("paper.yaml"))  # published numbers
SOURCE: str = PAPER["source"]


def avg_best(view: View, runs: Sequence[Condition], metric: str, task: str) -> tuple[Any, Any]:
    """Mean over the settings and the best of them, per seed, then over the seeds that ran every setting."""
    frame = pd.DataFrame({run.setting: view.over(run, metric, [task]) for run in runs}).dropna()
    return spread(frame.mean(axis=1)), spread(frame.max(axis=1))


def _rows(view: View, methods: Sequence[str]) -> Iterator[tuple[str, str, list[Condition]]]:
    """(key of the paper's numbers, name, runs): ours once for every batch rule."""
    for method in methods:
        for batch in view.batches if method == "ours" else [view.batch_of(method)]:
            name = f"{title(method)} {batch_label(batch)}" if method == "ours" else title(method)
            alone = batch == PER_SAMPLE and "1" not in view.batches  # decides as batch 1 does
            key = f"{method}/{'1' if alone else batch}" if method == "ours" else method
            yield key, name, view.conditions(method, batch)


def _label(key: str) -> str:
    """The name of a row of the paper's."""
    method, _, batch = key.partition("/")
    return f"{title(method)} {batch_label(rule_of(batch))}" if batch else title(method)


def ordered(view: View) -> list[str]:
    """The paper's methods first, as in its table 1, then the control, then all others but the ablations."""
    first = [m for m in [*TABLE1, "random"] if m in view.compared]
    return [*first, *(m for m in view.compared if m not in first)]


def _skipped(view: View, runs: Sequence[Condition], tasks: Sequence[str]) -> float:
    return float(np.mean([view.one(run, "skip_ratio", tasks) for run in runs]))


def _own(published: dict[str, dict[str, list[float]]], tasks: Sequence[str]) -> list[str]:
    """The tasks that are the paper's own and that it has numbers for."""
    known = {task for numbers in published.values() for task in numbers}
    return [task for task in tasks if task in known]


def _form_rows(published: dict[str, dict[str, list[float]]], tasks: Sequence[str], width: int) -> list[list[Any]]:
    """The paper's numbers on the tasks whose form these tasks have; ``width`` columns per task, AVG and BEST first.

    ``published`` is by the name of the row.
    """
    forms = {t: PAPER["forms"].get(t) for t in tasks}
    rows: list[list[Any]] = []
    for name, numbers in published.items():
        known = {t: numbers[f] for t, f in forms.items() if f in numbers}
        if known:
            where = ", ".join(short(str(forms[t])) for t in known)
            row: list[Any] = ["", f"{name}, on {where}"]
            for task in tasks:
                pair = [float(v) for v in known[task]] if task in known else [None, None]
                row += [*pair, *[None] * (width - 2)]
            rows.append(row)
    return rows


def _quality(views: Sequence[View], kind: str, methods: Sequence[str], metrics: tuple[str, ...]) -> Any:
    """Columns and rows of tables 1 and 2; metrics beyond the first are shown by their AVG alone."""
    tasks = views[0].nlu if kind == "nlu" else views[0].mt
    own = _own(PAPER[kind], tasks)
    columns = ["backbone", "method"]
    for task in tasks:
        columns += [f"{short(task)} {c}" for c in ("AVG", "BEST", *(m for m in metrics[1:]))]
        columns += [f"{short(task)} {c}, {SOURCE}" for c in ("AVG", "BEST") if task in own]
    rows: list[list[Any]] = []
    row: list[Any]
    for view in views:
        for key, name, runs in _rows(view, methods):
            row = [view.backbone, name]
            for task in tasks:
                row += avg_best(view, runs, metrics[0], task)
                row += [avg_best(view, runs, metric.casefold(), task)[0] for metric in metrics[1:]]
                row += PAPER[kind].get(key, {}).get(task, [None, None]) if task in own else []
            rows.append([*row, _skipped(view, runs, tasks)])
    shown = {key for key, _, _ in _rows(views[0], methods)}
    for key in (key for key in PAPER[kind] if own and key not in shown):
        row = ["", f"{_label(key)} (the paper's alone)"]
        for task in tasks:
            row += [None] * (1 + len(metrics)) + (PAPER[kind][key].get(task, [None, None]) if task in own else [])
        rows.append([*row, None])
    if not own:
        published = {f"{SOURCE}: {_label(key)}": numbers for key, numbers in PAPER[kind].items()}
        rows += [[*row, None] for row in _form_rows(published, tasks, 1 + len(metrics))]
    return [*columns, "skipped %"], rows


_BESIDE = (
    " AVG and BEST are over a method's settings, and the settings of different methods skip different shares (last "
    "column): tables “matched” and “auc” compare at equal shares. What is marked “paper” is published, of a larger "
    "model and larger data, and was not measured here."
)


def nlu(views: Sequence[View]) -> Table:
    """Table 1: macro F1, AVG and BEST over the settings."""
    columns, rows = _quality(views, "nlu", ordered(views[0]), ("f1_macro",))
    return Table(
        "nlu", "Understanding: macro F1, average (AVG) and best (BEST) over the settings (the paper's table 1)",
        "In %. Random skips at the rate measured for ours per sample, with the same weights"
        f"{notes.sizes(views[0], views[0].nlu)}. The paper calls its metric F1.{_BESIDE}" + notes.seeds(views)
        + notes.missing(views),
        columns, rows,
    )  # fmt: skip


def mt(views: Sequence[View]) -> Table:
    """Table 2: BLEU, AVG and BEST over the settings, chrF beside."""
    columns, rows = _quality(views, "mt", ordered(views[0]), ("bleu", "chrF"))
    signatures = views[0].found.signatures
    signed_by = "; ".join(f"{short(t)}: BLEU {s['bleu']}, chrF {s['chrf']}" for t, s in signatures.items())
    return Table(
        "mt", "Translation: BLEU, average (AVG) and best (BEST) over the settings, chrF (AVG) (the paper's table 2)",
        f"0 to 100{notes.sizes(views[0], views[0].mt)}. Signatures: {signed_by or NOT_RUN}.{_BESIDE}"
        + notes.seeds(views) + notes.missing(views),
        columns, rows,
    )  # fmt: skip


def variance(views: Sequence[View]) -> Table:
    """Table 3: how much the skipped layers differ between samples (eqs 14-15)."""
    rows: list[list[Any]] = []
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
            rows.append([*row, None if known is None else f"{known:.2f} on {short(theirs)}"])
    view = views[0]
    return Table(
        "variance", "Skip variance per data set (the paper's table 3)",
        "Average over layers of the standard deviation, over samples, of the 0/1 skip of the prompt's decision "
        "(eqs 14-15; 0 = the same layers for every sample, 0.5 at most); the paper calls it a variance. Baselines: "
        "mean over their settings. The last column is published, of another model, and of another data set where its "
        "name differs from the row's." + notes.missing(views),
        ["backbone", "task", *(f"ours at {t.label()}" for t in view.thresholds), "random at the headline rate",
         *map(title, view.baselines), SOURCE],
        rows, 2,
    )  # fmt: skip


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
        ["backbone", "source", "layers", "hidden size", "parameters, millions"], rows, 0,
    )  # fmt: skip


def per_backbone(views: Sequence[View]) -> Table:
    """Table 5: AVG and BEST per backbone."""
    tasks, batch = views[0].nlu, views[0].headline.ours.batch
    rows: list[list[Any]] = []
    for view in views:
        named = {title("vanilla"): [VANILLA], f"{title('ours')} {batch_label(batch)}": view.conditions("ours", batch)}
        for name, runs in named.items():
            cells = [cell for task in tasks for cell in avg_best(view, runs, "f1_macro", task)]
            rows.append([view.backbone, name, *cells])
    published = PAPER["per_backbone"]
    if own := _own(published, tasks):
        for name, numbers in published.items():
            cells = [v for task in tasks for v in numbers.get(task, [None, None])]
            rows.append(["", f"paper, {name}, on {', '.join(map(short, own))}", *cells])
    else:
        rows += _form_rows({f"paper, {name}": numbers for name, numbers in published.items()}, tasks, 2)
    return Table(
        "per_backbone", "Understanding per backbone: macro F1, AVG and BEST over the thresholds (the paper's table 5)",
        f"In %{notes.sizes(views[0], tasks)}. Rows marked “paper” are published, of other models and of the data sets "
        "that they name." + notes.seeds(views) + notes.missing(views),
        ["backbone", "method", *(f"{short(t)} {c}" for t in tasks for c in ("AVG", "BEST"))], rows,
    )  # fmt: skip
