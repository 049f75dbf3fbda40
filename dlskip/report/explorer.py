"""The page's chart: quality against what it saves, drawn by Vega-Lite in the reader's browser, offline."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import altair as alt
import pandas as pd
import vl_convert
from markupsafe import Markup

from dlskip.methods.names import title as method_title
from dlskip.methods.settings import PER_SAMPLE, rule_of
from dlskip.report import style
from dlskip.report.collect import evaluated
from dlskip.report.figures_speed import comparable
from dlskip.report.view import TaskGroup, View, batch_label

_SHAPES = {
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left",
    ">": "triangle-right", "P": "cross", "X": "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",
    "p": "M0,-1L.95,-.31L.59,.81L-.59,.81L-.95,-.31Z", "h": "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z",
    "d": "M0,-1L.55,0L0,1L-.55,0Z", "H": "M-.5,-.87L.5,-.87L1,0L.5,.87L-.5,.87L-1,0Z",
    "*": "M0,-1L.25,-.3L1,-.3L.4,.15L.6,.9L0,.45L-.6,.9L-.4,.15L-1,-.3L-.25,-.3Z",
}  # fmt: skip


@lru_cache(maxsize=1)
def library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script that can stand within the page."""
    return Markup(vl_convert.javascript_bundle().replace("</script", "<\\/script"))  # type: ignore[call-arg]


def embed(value: Any) -> Markup:
    """JSON that may stand within a script element: nothing in it can end the element or start a tag."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def points(views: Sequence[View]) -> pd.DataFrame:
    """A row per backbone, task (or average) and condition: the numbers, and where they come from.

    A speed-up is left out where the timed run skipped a share that differs much from the one on the task.
    """
    return pd.DataFrame([row for view in views for group in view.groups_and_tasks for row in _points(view, group)])


def _points(view: View, group: TaskGroup) -> Iterator[dict[str, Any]]:
    alone = rule_of(view.found.params.evaluate.per_sample_batch)  # of baselines, where ours decides for each row
    for at in view.every():
        quality, ours = view.quality(at, group.tasks), at.method == "ours"
        if not len(quality):
            continue
        share, interval = view.share(at, group.tasks), view.bootstrap.mean(at, group.tasks)
        row = {
            "backbone": view.backbone, "task": group.heading, "method": method_title(at.method),
            "setting": at.setting.label(), "rule": at.batch if ours else "any", "share": round(share, 2),
            "quality": round(float(quality.mean()), 2), "low": round(interval.low, 2), "high": round(interval.high, 2),
            "metric": f"{group.score}, {group.phase}", "seeds": len(quality),
            "link": _link(view, at.method, group),
        }  # fmt: skip
        for batch in view.batches:
            timed = at if ours else at._replace(batch=alone if batch == PER_SAMPLE else batch)
            factor, meanwhile = (view.speed(timed, f"{metric}_{group.phase}") for metric in ("speedup", "skip"))
            known = math.isfinite(factor) and comparable(meanwhile, share) and (not ours or at.batch == batch)
            row[f"speedup_{batch}"] = round(factor, 3) if known else None
        yield row


def _link(view: View, method: str, group: TaskGroup) -> str:
    """To the record of the evaluation that a method's numbers come from, of the first seed that has one."""
    pairs = [f"{view.backbone}-{seed}" for seed in view.found.params.grid.seeds]
    paths = [x for pair in pairs for x in evaluated(view.found.params, "ours" if method == "random" else method, pair)]
    kind = "nlu" if group.phase == "prefill" else "mt"
    return next((f"#{slug(x)}" for x in paths if x.endswith(kind) and x in view.found.provenance), "")


def slug(path: str) -> str:
    """The id of a run's record in the page."""
    return "run-" + path.replace("/", "-").replace(".", "_")


def chart(views: Sequence[View]) -> dict[str, Any]:
    """The Vega-Lite specification: two planes with one legend."""
    frame, first = points(views), views[0]
    if frame.empty:
        return {}
    methods = [m for m in first.methods if method_title(m) in set(frame["method"])]
    titles, looks = [method_title(m) for m in methods], [style.look(m) for m in methods]
    pick = alt.selection_point(name="methods", fields=["method"], bind="legend")
    params = [
        _choice("backbone", "Backbone", {name: name for name in frame["backbone"]}),
        _choice("task", "Task", {name: name for name in frame["task"]}),
        _choice("rule", "Batch", {rule: batch_label(rule) for rule in first.batches}, first.headline.ours.batch),
    ]
    # rows as objects: Vega's reader of CSV compiles a function, which the page's policy forbids
    rows = [{k: v for k, v in row.items() if pd.notna(v)} for row in frame.to_dict("records")]
    data = {"values": rows}
    base = (
        alt.Chart(alt.Data.from_dict({"name": "points"}))
        .transform_filter("datum.backbone == backbone && datum.task == task")
        .transform_filter("datum.rule == 'any' || datum.rule == rule")
        .transform_calculate(speedup="datum['speedup_' + rule]", group="datum.method + datum.rule")
    )
    colour = alt.Color(
        "method:N", title=None, scale=alt.Scale(domain=titles, range=[look["color"] for look in looks]),
        legend=alt.Legend(orient="bottom", symbolStrokeWidth=2, labelLimit=300),
    )  # fmt: skip
    shapes = [_SHAPES[str(look["marker"])] for look in looks]
    tooltip = [
        alt.Tooltip(name, title=said, format=form)
        for name, said, form in (
            ("method:N", "method", ""), ("setting:N", "setting", ""), ("task:N", "task", ""),
            ("metric:N", "quality, phase timed", ""), ("quality:Q", "quality", ".1f"), ("low:Q", "95 % from", ".1f"),
            ("high:Q", "95 % to", ".1f"), ("share:Q", "measured share skipped, %", ".1f"),
            ("speedup:Q", "measured speed-up", ".2f"), ("seeds:Q", "seeds", ""),
        )
    ]  # fmt: skip

    def plane(across: str, title: str, *, log: bool) -> alt.LayerChart:
        x = alt.X(f"{across}:Q", title=title, scale=alt.Scale(type="log", nice=False) if log else alt.Scale(zero=True))
        y = alt.Y("quality:Q", title="macro F1 in %, or BLEU", scale=alt.Scale(zero=False))
        over = alt.selection_point(name=f"over_{across}", on="pointerover", empty=False, clear="pointerout")
        own = base.transform_filter(f"isValid(datum.{across})")
        faint = alt.when(pick).then(alt.value(1.0)).otherwise(alt.value(0.08))
        line = own.mark_line(strokeWidth=1.6).encode(x, y, colour, detail="group:N", order="share:Q", opacity=faint)
        whisker = own.mark_rule(strokeWidth=1.5).encode(
            x, alt.Y("low:Q"), colour, y2="high:Q", opacity=alt.when(over).then(alt.value(1)).otherwise(alt.value(0))
        )
        dot = own.mark_point(filled=True, size=90, cursor="pointer").encode(
            x, y, colour, alt.Shape("method:N", title=None, scale=alt.Scale(domain=titles, range=shapes)),
            opacity=faint, tooltip=tooltip, href="link:N",
        )  # fmt: skip
        return alt.layer(line, whisker, dot.add_params(over) if log else dot.add_params(over, pick))

    both = alt.concat(
        plane("share", "measured share of layers skipped, %", log=False),
        plane("speedup", "measured speed-up of prefill or decoding", log=True),
    ).add_params(*params)
    return _with(both.to_dict(), data)


def _with(spec: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """The specification with its data at the top, where both planes find them, in the report's colours."""
    for plane in spec["concat"]:
        plane.pop("data", None)
        for layer in plane["layer"]:
            layer.pop("data", None)
    text, rule = {"labelColor": style.MUTED, "titleColor": style.INK}, style.RULE
    axis = text | {"gridColor": rule, "domainColor": style.MUTED, "tickColor": style.MUTED}
    config = {"background": "transparent", "view": {"stroke": rule}, "axis": axis, "legend": {"labelColor": style.INK}}
    return spec | {"data": data, "config": config}


def _choice(name: str, label: str, labels: dict[Any, str], value: str = "") -> Any:
    shown = alt.binding_select(options=list(labels), labels=list(labels.values()), name=f"{label} ")
    return alt.param(name=name, bind=shown, value=value or next(iter(labels)))
