"""The headline in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlskip.methods.names import title
from dlskip.report.matched import common, curves, rivals
from dlskip.report.stats import Condition, Estimate, difference, estimate
from dlskip.report.view import LONG, MIN_SKIP, VANILLA, TaskGroup, View, batch_label


def metrics(views: Sequence[View]) -> dict[str, Any]:
    """The headline as nested floats; what was not run is left out. The first backbone is on top."""
    first, *others = [_metrics(view) for view in views]
    return first | {view.backbone: numbers for view, numbers in zip(views[1:], others, strict=True)}


def _metrics(view: View) -> dict[str, Any]:
    h = view.headline
    result: dict[str, Any] = {
        "headline": {"threshold": h.ours.setting.number, "chosen_on_these_rows": float(h.chosen_on == "test")}
    }
    named = {"vanilla": VANILLA, "vanilla_long": LONG, "ours": h.ours, "random": h.random, "ours_full_depth": h.full}
    for name, run in named.items():
        values = {
            "nlu_f1": view.one(run, "f1_macro", view.nlu), "mt_bleu": view.one(run, "bleu", view.mt),
            "skip_ratio": view.share(run, view.tasks) / 100, "nlu_skip_ratio": view.share(run, view.nlu) / 100,
            "mt_skip_ratio": view.share(run, view.mt) / 100,
            "speedup_prefill": view.speed(run, "speedup_prefill"),
            "speedup_decode": view.speed(run, "speedup_decode"),
        }  # fmt: skip
        result[name] = _finite(values)
    for name, other in (("delta_vs_vanilla", VANILLA), ("delta_vs_random", h.random)):
        deltas: dict[str, float] = {}
        for key, tasks in (("nlu_f1", view.nlu), ("mt_bleu", view.mt)):
            delta = view.bootstrap.difference(h.ours, other, tasks)
            deltas |= {key: delta.value, f"{key}_low": delta.low, f"{key}_high": delta.high}
        result[name] = _finite(deltas)
    for name, tasks in (("auc_nlu", view.nlu), ("auc_mt", view.mt)):
        found = curves(view, tasks) if tasks else {}
        if over := common(found.values()):
            areas = {m: estimate(c.area(*over)).value for m, c in found.items()}
            result[name] = _finite({"from_skip_ratio": over[0] / 100, "to_skip_ratio": over[1] / 100} | areas)
    return {name: value for name, value in result.items() if value}


def _finite(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items() if not math.isnan(value)}


def sentences(view: View) -> list[str]:
    """The headline in words, good or bad, with intervals."""
    ours, said = view.headline.ours, []
    for group in view.groups:
        tasks, quality = group.tasks, float(view.quality(ours, group.tasks).mean())
        if math.isnan(quality):
            said.append(f"On the {group.name} tasks ours was not run.")
            continue
        others = (
            _versus(view, VANILLA, tasks, "the fine-tuned unskipped model"),
            _versus(view, view.headline.random, tasks, "random skipping at the same rate"),
        )
        text = (
            f"On {len(tasks)} {group.name} {'task' if len(tasks) == 1 else 'tasks'}, ours skips "
            f"{view.share(ours, tasks):.0f} % of the layer applications and scores {quality:.1f} {group.score}: "
            f"{'; '.join(others)}."
        )
        speed = view.speedup(ours, tasks)
        if not math.isnan(speed):
            phase = "decoding" if group.phase == "decode" else group.phase
            text += f" Measured ({batch_label(ours.batch)}), full depth takes {speed:.2f} times as long for {phase}"
            text += "." if speed >= 1 else ": skipping is slower here, not faster."
        said.append(text + _strongest(view, group))
    return said


def _strongest(view: View, group: TaskGroup) -> str:
    """A sentence on the best of the baselines where they skip as much as ours does."""
    if not view.baselines:
        return ""
    found = rivals(view, group.tasks)
    best = next((rival for rival in found if rival.there), None)
    if best is None:
        return " No other method skips that much." if any(r.ran for r in found) else " The other methods were not run."
    delta = difference(view.bootstrap.drawn(view.headline.ours, group.tasks), best.there)
    return (
        f" At the same share the strongest of {len(view.baselines)} other methods is {title(best.method)} with "
        f"{estimate(best.there).value:.1f} {group.score}, read between its settings: ours is {verdict(delta)} it, "
        f"{delta.text()}."
    )


def verdict(delta: Estimate) -> str:
    """``above``, ``below``, or not distinguishable from."""
    if math.isnan(delta.value):
        return "not compared with (not run)"
    if delta.covers_zero:
        return "not distinguishable from"
    return "above" if delta.value > 0 else "below"


def _versus(view: View, other: Condition, tasks: Sequence[str], name: str) -> str:
    delta = view.bootstrap.difference(view.headline.ours, other, tasks)
    if math.isnan(delta.value):
        return f"{name} was not run"
    return f"{verdict(delta)} {name} ({view.quality(other, tasks).mean():.1f}; {delta.text()})"


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
