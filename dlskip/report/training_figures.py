"""Figures of how it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes

from dlskip.report import style
from dlskip.report.collect import STAGES
from dlskip.report.figures_common import RANGE, Picture, facts
from dlskip.report.view import View

NAMES = {
    "finetune": "Fine-tuning (vanilla)", "adapter_init": "Adapter init", "skip_pretrain": "Skip pretraining",
    "rl": "RL", "mixer": "MIXER",
}  # fmt: skip
FAINT = "faint: as logged; solid: moving average"
_MARKS = {"all-skip": "v", "none-skip": "^", "rates-apart": "X"}


def curve(view: View, stage: str, metric: str, variant: str = "") -> pd.DataFrame:
    """Mean and range over seeds by step: columns mean, min, max."""
    rows = view.curves
    where = (rows["stage"] == stage) & (rows["metric"] == metric) & (rows["variant"].fillna("") == variant)
    return rows[where].groupby("step")["value"].agg(["mean", "min", "max"])


def smooth(values: pd.Series) -> pd.Series:
    """A centred moving average over an eighth of the run."""
    return values.rolling(max(3, len(values) // 8), center=True, min_periods=1).mean()


class Line(NamedTuple):
    """One curve of a panel: what is drawn, what it is called, and how it looks."""

    metric: str
    label: str
    colour: str
    smoothed: bool = True
    dashed: bool = False
    variant: str = ""


def panel(view: View, axes: Axes, title: str, label: str, stage: str, lines: Sequence[Line]) -> list[Line]:
    """Draws curves (raw beneath, smoothed above; the range over seeds shaded), and returns those that there are."""
    axes.set_title(title)
    found = {line: curve(view, stage, line.metric, line.variant) for line in lines}
    drawn = [line for line in lines if not found[line].empty]
    for line in drawn:
        raw = found[line]["mean"]
        look: dict[str, Any] = {"color": line.colour, "linestyle": (0, (4, 2)) if line.dashed else "-"}
        if (found[line]["max"] > found[line]["min"]).any():
            axes.fill_between(raw.index, found[line]["min"], found[line]["max"], color=line.colour, alpha=0.12, lw=0)
        if line.smoothed:
            axes.plot(raw.index, raw, color=line.colour, alpha=0.3, linewidth=0.9)
            axes.plot(raw.index, smooth(raw), label=line.label, **look)
        else:
            axes.plot(raw.index, raw, label=line.label, marker="o", markersize=3, **look)
    if drawn:
        axes.set(xlabel="step", ylabel=label)
    else:
        style.blank(axes)
    return drawn


def training(view: View) -> Picture:
    """Loss of every stage; then reward and held-out cross entropy of the stages with a policy."""
    figure, grid = style.panels(10, 5, 3.1, 2.8, room=0.5)
    for axes, stage in zip(grid, STAGES, strict=False):
        metric, name = ("ce_reward", "cross entropy, sampled masks") if stage == "rl" else ("loss", "loss")
        panel(view, axes, NAMES[stage], name, stage, [Line(metric, name, style.INK)])
    rates = [
        Line("skip_sampled", "training, sampled", style.MUTED),
        Line("val_skip_sampled", "held out, sampled", style.SECOND, smoothed=False, dashed=True),
        Line("val_skip_threshold", "held out, threshold 0.5", style.OURS, smoothed=False),
    ]
    errors = [
        Line("val_ce_sampled", "sampled", style.SECOND, smoothed=False, dashed=True),
        Line("val_ce_threshold", "threshold 0.5", style.OURS, smoothed=False),
        Line("val_ce_full", "nothing skipped", style.INK, smoothed=False),
    ]
    panel(view, grid[6], "RL: reward", "reward", "rl", [Line("reward", "reward", style.INK)])
    for stage, left, right in (("rl", grid[5], grid[7]), ("mixer", grid[8], grid[9])):
        if panel(view, left, f"{stage.upper()}: skipped share", "share of layers", stage, rates):
            _alarms(view, left, stage)
            _legend_above(left)
        if panel(view, right, f"{stage.upper()}: held-out loss", "cross entropy", stage, errors):
            _legend_above(right)
    gap = view.found.params.rl.alarm_gap
    rule = f"an alarm is raised when the held-out rates are more than {gap:g} apart, or all or nothing is skipped"
    style.note(figure, facts(view, [], RANGE, rule, FAINT))
    said = f"Alarms raised: {len(view.found.alarms) or 'none'}."
    return Picture(
        figure, "Line charts of loss, skip rates, reward and held-out cross entropy for each stage. The file "
        f"reports/curves.csv holds the numbers. {said}",
        "First the loss of every stage, then what RL and MIXER do to the policy. The sampled rate is what training "
        f"sees, the thresholded one what inference does. {said}",
    )  # fmt: skip


def _legend_above(axes: Axes) -> None:
    """A legend over the data, in room made for it."""
    low, high = axes.get_ylim()
    count = len(axes.get_legend_handles_labels()[1])
    axes.set_ylim(low, high + (0.105 * count + 0.03) * (high - low))
    axes.legend(fontsize=7.5, handlelength=1.8, loc="upper left", borderaxespad=0.2, labelspacing=0.35)


def without_sampling(view: View) -> str | None:
    """The ablation whose RL lacks the sampling strategy, alone if there is one that changes nothing else."""
    found = []
    for name, variant in view.found.params.ablations.variants.items():
        changed = variant.set.get("rl", {})
        if "rl" in variant.stages and changed.get("sampling", {}).get("enabled") is False:
            found.append((len(changed) + len(variant.set), name))
    return min(found)[1] if found else None


def figure4(view: View) -> Picture:
    """The paper's figure 4: RL with and without the sampling strategy."""
    figure, grid = style.panels(3, 3, 4.3, 3.5, room=0.5)
    other = without_sampling(view)
    panels = (
        ("loss", "RL loss (the paper's figure 4)", "policy-gradient loss"), ("reward", "RL reward", "mean reward"),
        ("skip_sampled", "RL: sampled share skipped", "share of layers"),
    )  # fmt: skip
    for axes, (metric, title, label) in zip(grid, panels, strict=True):
        lines = [Line(metric, "with the sampling strategy", style.OURS)]
        lines.append(Line(metric, "without it", style.SECOND, dashed=True, variant=other or "none"))
        drawn = panel(view, axes, title, label, "rl", lines)
        for line in (line for line in lines if drawn and line not in drawn):
            axes.plot([], [], " ", label=f"{line.label}: not run")
        if drawn:
            _legend_above(axes)
    style.note(figure, facts(view, [], RANGE, *([f"without: ablation {other}"] if other else []), FAINT))
    return Picture(
        figure, "Line charts of policy-gradient loss, reward and skip rate for RL with and without the sampling "
        "strategy. The file reports/curves.csv holds the numbers.",
        "RL with and without the sampling strategy (the paper's figure 4): the same start and number of steps.",
    )  # fmt: skip


def _alarms(view: View, axes: Axes, stage: str) -> None:
    """Marks the alarms of all seeds on the thresholded rate."""
    runs = {f"artifacts/{STAGES[stage]}/{view.backbone}-{seed}" for seed in view.found.params.grid.seeds}
    thresholded = curve(view, stage, "val_skip_threshold")
    raised = [alarm for alarm in view.found.alarms if alarm["run"] in runs]
    for what in dict.fromkeys(alarm["kind"] for alarm in raised):
        steps = sorted({alarm["step"] for alarm in raised if alarm["kind"] == what})
        heights = [float(thresholded["mean"].get(step, 0.0)) for step in steps]
        axes.plot(
            steps, heights, marker=_MARKS.get(what, "d"), linestyle="none", color=style.RANDOM, markersize=10,
            markeredgecolor="white", label=f"alarm: {what} ({len(steps)})", zorder=5,
        )  # fmt: skip
    if not raised:
        axes.plot([], [], " ", label="no alarm raised")
