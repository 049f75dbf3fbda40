"""The numbers behind the page's chart and table: plain JSON, read by the page's script alone.

``null`` stands for what was not run. Quality is in % or BLEU, shares in %, speed-ups are factors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from dlskip.methods.names import title as method_title
from dlskip.methods.settings import FULL, rule_of
from dlskip.report import style
from dlskip.report.budget import trained
from dlskip.report.collect import evaluated
from dlskip.report.figures_common import kinds
from dlskip.report.figures_speed import APART, PHASES
from dlskip.report.stats import Run
from dlskip.report.view import View, batch_label, short

DARK = "#1c2229"  # the ground of the page's chart where the reader prefers a dark one


def embed(value: Any) -> Markup:
    """JSON that may stand within a script element: nothing in it can end the element or start a tag."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def payload(views: Sequence[View]) -> dict[str, Any]:
    """Everything that the page's script shows."""
    first = views[0]
    return {
        "backbones": [view.backbone for view in views],
        "tasks": [task for kind in kinds(first) for task in _tasks(first, kind.name, kind.tasks, kind.metric)],
        "methods": [
            {"id": m, "title": method_title(m), "ablation": m in first.ablations, **_start(first, m), **look(m)}
            for m in first.methods
        ],
        "batches": [{"id": b, "title": batch_label(b)} for b in first.batches],
        "per_sample_batch": str(first.found.params.evaluate.per_sample_batch),
        "batch": first.headline.ours.batch,
        "apart": APART,
        "seeds": len(first.found.params.grid.seeds),
        "points": {view.backbone: list(_points(view)) for view in views},
    }  # fmt: skip


def _start(view: View, method: str) -> dict[str, str]:
    """Whose run at full depth a method's line begins with (nothing: it has one of its own)."""
    begin = view.start(method).method
    return {"start": "" if begin == method else begin}


def look(method: str) -> dict[str, str]:
    """A method's colour on white and on black, its marker, and its kind of line as SVG dashes."""
    drawn = style.look(method)
    line = drawn["linestyle"]
    dashes = "" if isinstance(line, str) else " ".join(f"{1.6 * length:g}" for length in line[1])
    return {
        "colour": drawn["color"], "dark": style.legible(drawn["color"], DARK), "marker": drawn["marker"],
        "dashes": dashes,
    }  # fmt: skip


def _tasks(view: View, kind: str, tasks: Sequence[str], metric: str) -> list[dict[str, Any]]:
    group = kind[0].upper() + kind[1:]
    found = [
        {"id": task, "title": short(task), "group": group, "metric": metric, "n": view.n.get(task)} for task in tasks
    ]
    if len(tasks) > 1:
        total = [view.n[t] for t in tasks if t in view.n]
        whole = {"id": kind, "title": f"Mean of {len(tasks)} {kind} tasks", "group": group, "metric": metric}
        found.insert(0, whole | {"n": sum(total) if total else None})
    return found


def runs(view: View) -> list[Run]:
    """Every run whose quality was measured."""
    found: list[Run] = []
    for method in view.methods:
        for batch in view.batches if method == "ours" else [view.batch_of(method)]:
            if method in ("ours", *view.ablations):
                found.append(Run(method, FULL, batch))
            found += view.runs(method, batch)
    return found


def _points(view: View) -> Iterable[dict[str, Any]]:
    """One record per run: its quality and share on every task and average, its speed, and the cells it comes from."""
    groups = {task: [task] for task in view.tasks} | {k.name: k.tasks for k in kinds(view) if len(k.tasks) > 1}
    for run in runs(view):
        tasks = {name: record for name, over in groups.items() if (record := _record(view, run, over))}
        if tasks:
            yield {
                "method": run.method, "setting": run.setting.label(), "full": run.setting.full_depth,
                "batch": run.batch, "tasks": tasks, "speed": _speeds(view, run), "cells": cells(view, run),
            }  # fmt: skip


def _record(view: View, run: Run, tasks: Sequence[str]) -> list[float | None] | None:
    """[share, quality, its standard deviation over seeds, low, high, seeds]; None if not run."""
    quality = view.over(run, view.quality(tasks[0]), tasks)
    if not len(quality):
        return None
    share = view.one(run, "skip_ratio", tasks)
    interval = view.bootstrap.mean(run, tasks)
    spread = float(quality.std()) if len(quality) > 1 else math.nan
    numbers = [_number(v) for v in (share, float(quality.mean()), spread, interval.low, interval.high)]
    return [*numbers, len(quality)]


def _speeds(view: View, run: Run) -> dict[str, list[float | None]]:
    """By batch size: measured speed-up of prefill and of decoding, and the share in % that each skipped meanwhile."""
    batches = [run.batch] if run.method == "ours" else map(rule_of, view.found.params.speed.batches)
    found = {}
    for batch in batches:
        alike = run._replace(batch=batch)
        factors = [_number(float(view.speed(alike, f"speedup_{p}").mean()), 3) for p in PHASES]
        shares = [_number(float(view.speed(alike, f"skip_{p}").mean())) for p in PHASES]
        if any(factor is not None for factor in factors):
            found[batch] = [*factors, *shares]
    return found


def _number(value: float, digits: int = 2) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def cells(view: View, run: Run) -> list[str]:
    """The cells that a run's numbers come from, the evaluation first, of all seeds; only those on record."""
    method, names = "ours" if run.method == "random" else run.method, list[str]()
    for seed in view.found.params.grid.seeds:
        cell = f"{view.backbone}-{seed}"
        chain = [*trained(view.found.params, method, cell), f"artifacts/{method}/{cell}"]  # the last: its plan, if any
        other = f"artifacts/static/{cell}/"  # one model per share: not those of the other shares
        chain = [c for c in chain if not c.startswith(other) or c == f"{other}{run.setting.share}"]
        names += [*evaluated(view.found.params, method, cell), f"speeds/{method}/{cell}", *reversed(chain)]
    return [name for name in dict.fromkeys(names) if name in view.found.provenance]
