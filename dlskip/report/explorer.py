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
from dlskip.methods.settings import FULL, PER_SAMPLE, rule_of
from dlskip.report import style
from dlskip.report.budget import trained
from dlskip.report.collect import evaluated
from dlskip.report.figures_common import Kind, kinds
from dlskip.report.figures_speed import comparable
from dlskip.report.stats import Condition
from dlskip.report.view import View, batch_label, short

_SHAPES = {
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left",
    ">": "triangle-right", "P": "cross", "X": "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z",
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


def conditions(view: View) -> list[Condition]:
    """Every condition under which quality was measured; methods that have one, at full depth too."""
    found: list[Condition] = []
    for method in view.methods:
        for batch in view.batches if method == "ours" else [view.batch_of(method)]:
            if method in ("ours", *view.ablations):
                found.append(Condition(method, FULL, batch))
            found += view.conditions(method, batch)
    return found


def points(views: Sequence[View]) -> pd.DataFrame:
    """A row per backbone, task (or average) and condition: the numbers, and where they come from.

    A speed-up is left out where the timed run skipped a share that differs much from the one on the task.
    """
    return pd.DataFrame([row for view in views for name, kind in _groups(view) for row in _points(view, name, kind)])


def _groups(view: View) -> Iterator[tuple[str, Kind]]:
    for kind in kinds(view):
        if len(kind.tasks) > 1:
            yield f"Mean of {len(kind.tasks)} {kind.name} tasks", kind
        yield from ((short(task), kind._replace(tasks=[task])) for task in kind.tasks)


def _points(view: View, name: str, kind: Kind) -> Iterator[dict[str, Any]]:
    phase = "prefill" if kind.name == "understanding" else "decode"
    for at in conditions(view):
        quality = view.over(at, view.quality(kind.tasks[0]), kind.tasks)
        if not len(quality):
            continue
        share, interval = view.one(at, "skip_ratio", kind.tasks), view.bootstrap.mean(at, kind.tasks)
        row = {
            "backbone": view.backbone, "task": name, "method": method_title(at.method), "setting": at.setting.label(),
            "rule": at.batch if at.method == "ours" else "any", "share": round(share, 2),
            "quality": round(float(quality.mean()), 2), "low": round(interval.low, 2), "high": round(interval.high, 2),
            "metric": f"{kind.metric.split(',')[0]}, {phase}", "seeds": len(quality),
            "link": next((f"#{slug(path)}" for path in sources(view, at)), ""),
        }  # fmt: skip
        for batch in view.batches:
            timed = at if at.method == "ours" else at._replace(batch=_timed_at(view, batch))
            factor, meanwhile = (float(view.speed(timed, f"{m}_{phase}").mean()) for m in ("speedup", "skip"))
            known = math.isfinite(factor) and comparable(meanwhile, share)
            known = known and (at.method != "ours" or at.batch == batch)
            row[f"speedup_{batch}"] = round(factor, 3) if known else None
        yield row


def _timed_at(view: View, batch: Any) -> Any:
    """The batch that a baseline was timed with, where ours decides for each row of one."""
    return rule_of(view.found.params.evaluate.per_sample_batch) if batch == PER_SAMPLE else batch


def sources(view: View, at: Condition) -> list[str]:
    """The runs that a condition's numbers come from, the evaluation first, of all seeds; only those on record."""
    method, names = "ours" if at.method == "random" else at.method, list[str]()
    for seed in view.found.params.grid.seeds:
        run = f"{view.backbone}-{seed}"
        chain = [*trained(view.found.params, method, run), f"artifacts/{method}/{run}"]  # the last: its plan, if any
        other = f"artifacts/static/{run}/"  # one model per share: not those of the other shares
        chain = [c for c in chain if not c.startswith(other) or c == f"{other}{at.setting.share}"]
        names += [*evaluated(view.found.params, method, run), f"speeds/{method}/{run}", *reversed(chain)]
    return [name for name in dict.fromkeys(names) if name in view.found.provenance]


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
    tasks, rules = list(dict.fromkeys(frame["task"])), list(first.batches)
    params = [
        _choice("backbone", "Backbone", list(dict.fromkeys(frame["backbone"]))), _choice("task", "Task", tasks),
        _choice("rule", "Batch", rules, [batch_label(b) for b in rules], first.headline.ours.batch),
    ]  # fmt: skip
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
    shapes = [_SHAPES.get(str(look["marker"]), "circle") for look in looks]
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


def _choice(name: str, label: str, values: Sequence[str], labels: Sequence[str] | None = None, value: str = "") -> Any:
    shown = alt.binding_select(options=list(values), labels=list(labels or values), name=f"{label} ")
    return alt.param(name=name, bind=shown, value=value or values[0])
