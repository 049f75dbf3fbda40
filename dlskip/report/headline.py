"""The headline in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlskip.methods.names import title
from dlskip.report.matched import common, curve, rivals, versus
from dlskip.report.stats import Condition, Estimate, estimate
from dlskip.report.table import signed
from dlskip.report.view import MIN_SKIP, VANILLA, View, batch_label


def metrics(views: Sequence[View]) -> dict[str, Any]:
    """The headline as nested floats; what was not run is left out. The first backbone is on top."""
    first, *others = [_metrics(view) for view in views]
    return first | {view.backbone: numbers for view, numbers in zip(views[1:], others, strict=True)}


def _metrics(view: View) -> dict[str, Any]:
    h = view.headline
    result: dict[str, Any] = {
        "headline": {"threshold": h.ours.setting.number, "chosen_on_these_rows": float(h.same_rows)}
    }
    for name, run in (("vanilla", VANILLA), ("ours", h.ours), ("random", h.random), ("ours_full_depth", h.full)):
        values = {
            "nlu_f1": view.one(run, "f1_macro", view.nlu), "mt_bleu": view.one(run, "bleu", view.mt),
            "skip_ratio": view.one(run, "skip_ratio", view.tasks) / 100,
            "nlu_skip_ratio": view.one(run, "skip_ratio", view.nlu) / 100,
            "mt_skip_ratio": view.one(run, "skip_ratio", view.mt) / 100,
            "speedup_prefill": float(view.speed(run, "speedup_prefill").mean()),
            "speedup_decode": float(view.speed(run, "speedup_decode").mean()),
        }  # fmt: skip
        result[name] = _finite(values)
    for name, other in (("delta_vs_vanilla", VANILLA), ("delta_vs_random", h.random)):
        deltas: dict[str, float] = {}
        for key, tasks in (("nlu_f1", view.nlu), ("mt_bleu", view.mt)):
            delta = view.bootstrap.difference(h.ours, other, tasks)
            deltas |= {key: delta.value, f"{key}_low": delta.low, f"{key}_high": delta.high}
        result[name] = _finite(deltas)
    for name, tasks in (("auc_nlu", view.nlu), ("auc_mt", view.mt)):
        curves = {m: curve(view, m, tasks) for m in view.compared if m != "vanilla"} if tasks else {}
        if over := common(curves.values()):
            areas = {m: estimate(c.area(*over)).value for m, c in curves.items()}
            result[name] = _finite({"from_skip_ratio": over[0] / 100, "to_skip_ratio": over[1] / 100} | areas)
    return {name: value for name, value in result.items() if value}


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items() if not math.isnan(value)}


def sentences(view: View) -> list[str]:
    """The headline in words, good or bad, with intervals."""
    h, said = view.headline, []
    for tasks, metric, name, kind in (
        (view.nlu, "f1_macro", "macro F1", "understanding"), (view.mt, "bleu", "BLEU", "translation"),
    ):  # fmt: skip
        if not tasks:
            continue
        ours = view.one(h.ours, metric, tasks)
        if math.isnan(ours):
            said.append(f"On the {kind} tasks ours was not run.")
            continue
        skipped = view.one(h.ours, "skip_ratio", tasks)
        text = (
            f"On {len(tasks)} {kind} {'task' if len(tasks) == 1 else 'tasks'}, ours skips {skipped:.0f} % of the layer "
        )
        text += f"applications and scores {ours:.1f} {name}"
        versus = [_versus(view, h.ours, VANILLA, metric, tasks, "the fine-tuned unskipped model")]
        versus.append(_versus(view, h.ours, h.random, metric, tasks, "random skipping at the same rate"))
        text += ": " + "; ".join(versus) + "."
        speed = float(view.speedup(h.ours, tasks).mean())
        if not math.isnan(speed):
            phase = "decoding" if set(tasks) <= set(view.mt) else "prefill"
            text += f" Measured ({batch_label(h.ours.batch)}), full depth takes {speed:.2f} times as long for {phase}"
            text += "." if speed >= 1 else ": skipping is slower here, not faster."
        said.append(text + _strongest(view, tasks, name))
    return said


def _strongest(view: View, tasks: Sequence[str], metric: str) -> str:
    """A sentence on the best of the baselines where they skip as much as ours does."""
    if not view.baselines:
        return ""
    found = rivals(view, tasks)
    best = next((rival for rival in found if rival.there), None)
    if best is None:
        return " No other method skips that much." if any(r.ran for r in found) else " The other methods were not run."
    delta, there = estimate(versus(view, tasks, best.there)), estimate(best.there).value
    return (
        f" At the same share the strongest of {len(view.baselines)} other methods is {title(best.method)} with "
        f"{there:.1f} {metric}, read between its settings: ours is {verdict(delta)} it, {signed(delta.value)} "
        f"[{signed(delta.low)}, {signed(delta.high)}]."
    )


def verdict(delta: Estimate) -> str:
    """``above``, ``below``, or not distinguishable from."""
    if math.isnan(delta.value):
        return "not compared with (not run)"
    if delta.covers_zero:
        return "not distinguishable from"
    return "above" if delta.value > 0 else "below"


def _versus(view: View, run: Condition, other: Condition, metric: str, tasks: Sequence[str], name: str) -> str:
    delta = view.bootstrap.difference(run, other, tasks)
    if math.isnan(delta.value):
        return f"{name} was not run"
    numbers = f"{signed(delta.value)} [{signed(delta.low)}, {signed(delta.high)}]"
    return f"{verdict(delta)} {name} ({view.one(other, metric, tasks):.1f}; {numbers})"


def choice(view: View) -> str:
    """How the headline's setting came about."""
    h = view.headline
    setting = h.ours.setting.label().capitalize()
    if h.chosen_on == "params":
        return f"{setting} is set in params.yaml (figures.headline_threshold)."
    rule = f"the best average among the thresholds that skip at least {MIN_SKIP:.0f} % (else the one that skips most)"
    if h.chosen_on == "validation":
        return f"{setting} was chosen on validation rows, which no number of this report is of: {rule}."
    return (
        f"{setting} was chosen on the test rows themselves, for want of validation rows: {rule}. That favours ours a "
        "little; the settings table and the figures show all of them."
    )


def fill_readme(readme: Path, block: str, table: str) -> None:
    """Puts a table between README's markers ``<!-- <block>:begin ... -->`` and ``<!-- <block>:end -->``."""
    begin, end = f"<!-- {block}:begin", f"<!-- {block}:end -->"
    text = readme.read_text(encoding="utf-8")
    head, rest = text.split(begin, 1)
    note, rest = rest.split("\n", 1)
    readme.write_text(f"{head}{begin}{note}\n{table}{end}{rest.split(end, 1)[1]}", encoding="utf-8")
