"""Figures of how it was trained."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from dlskip.report import style
from dlskip.report.collect import STAGES
from dlskip.report.figures_common import Picture
from dlskip.report.view import View

NAMES = {
    "finetune": "Fine-tuning (vanilla)", "adapter_init": "Adapter init", "skip_pretrain": "Skip pretraining",
    "rl": "RL", "mixer": "MIXER",
}  # fmt: skip
# what the two rates are called everywhere
SAMPLED, THRESHOLDED = "held out, sampled", "held out, threshold 0.5"
_MARKS = {"all-skip": "v", "none-skip": "^", "rates-apart": "X"}


def curve(view: View, stage: str, metric: str, variant: str = "") -> pd.DataFrame:
    """Mean and range over seeds by step: columns mean, min, max."""
    rows = view.curves
    where = (rows["stage"] == stage) & (rows["metric"] == metric) & (rows["variant"].fillna("") == variant)
    return rows[where].groupby("step")["value"].agg(["mean", "min", "max"])


def smooth(values: pd.Series) -> pd.Series:
    """A centred moving average over an eighth of the run."""
    return values.rolling(max(3, len(values) // 8), center=True, min_periods=1).mean()


def draw_curve(
    axes: Axes, found: pd.DataFrame, colour: str, label: str, *, smoothed: bool = True, dashed: bool = False
) -> bool:
    """Draws a curve (raw beneath, smoothed above; the range over seeds shaded); False if there is none."""
    if found.empty:
        return False
    raw, look = found["mean"], (0, (4, 2)) if dashed else "-"
    if (found["max"] > found["min"]).any():
        axes.fill_between(found.index, found["min"], found["max"], color=colour, alpha=0.12, linewidth=0)
    if smoothed:
        axes.plot(raw.index, raw, color=colour, alpha=0.3, linewidth=0.9)
        axes.plot(raw.index, smooth(raw), color=colour, label=label, linestyle=look)
    else:
        axes.plot(raw.index, raw, color=colour, label=label, marker="o", markersize=3, linestyle=look)
    return True


def _facts(view: View, *more: str) -> str:
    seeds = len(view.found.params.grid.seeds)
    return "; ".join(
        [view.backbone, "1 seed" if seeds == 1 else f"{seeds} seeds: mean, and the range between them shaded", *more]
    )


FAINT = "faint: as logged; solid: moving average"


def training(view: View) -> Picture:
    """Loss of every stage; then reward and held-out cross entropy of the stages with a policy."""
    figure, grid = style.panels(10, 5, 3.1, 2.8, room=0.5)
    for axes, stage in zip(grid[:5], STAGES, strict=True):
        metric, name = ("ce_reward", "cross entropy, sampled masks") if stage == "rl" else ("loss", "loss")
        axes.set_title(NAMES[stage])
        if draw_curve(axes, curve(view, stage, metric), style.INK, name):
            axes.set(xlabel="step", ylabel=name)
        else:
            style.blank(axes)
    rates = {
        "skip_sampled": ("training, sampled", style.MUTED, True, False),
        "val_skip_sampled": (SAMPLED, style.SECOND, False, True),
        "val_skip_threshold": (THRESHOLDED, style.OURS, False, False),
    }
    errors = {
        "val_ce_sampled": ("sampled", style.SECOND, False, True),
        "val_ce_threshold": ("threshold 0.5", style.OURS, False, False),
        "val_ce_full": ("nothing skipped", style.INK, False, False),
    }
    panels: list[tuple[str, str, str, dict[str, Any]]] = [
        ("rl", "RL: skipped share", "share of layers", rates),
        ("rl", "RL: reward", "reward", {"reward": ("reward", style.INK, True, False)}),
        ("rl", "RL: held-out loss", "cross entropy", errors),
        ("mixer", "MIXER: skipped share", "share of layers", rates),
        ("mixer", "MIXER: held-out loss", "cross entropy", errors),
    ]
    for axes, (stage, title, label, metrics) in zip(grid[5:], panels, strict=True):
        axes.set_title(title)
        drawn = [
            draw_curve(axes, curve(view, stage, m), c, t, smoothed=s, dashed=d) for m, (t, c, s, d) in metrics.items()
        ]
        if any(drawn):
            axes.set(xlabel="step", ylabel=label)
            if metrics is rates:
                _alarms(view, axes, "ours" if stage == "mixer" else stage)
            if len(metrics) > 1:
                _legend_above(axes)
        else:
            style.blank(axes)
    gap = view.found.params.rl.alarm_gap
    rule = f"an alarm is raised when the held-out rates are more than {gap:g} apart, or all or nothing is skipped"
    style.note(figure, _facts(view, rule, FAINT))
    count = len(view.found.alarms)
    said = "No alarm was raised." if not count else f"{count} alarm{'s were' if count > 1 else ' was'} raised."
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
        axes.set_title(title)
        drawn = [draw_curve(axes, curve(view, "rl", metric), style.OURS, "with the sampling strategy")]
        if other is not None:
            found = curve(view, "rl", metric, other)
            drawn.append(draw_curve(axes, found, style.SECOND, "without it", dashed=True))
        if not any(drawn):
            style.blank(axes)
            continue
        axes.set(xlabel="step", ylabel=label)
        for ran, name in zip([*drawn, False][:2], ("with", "without"), strict=True):
            if not ran:
                axes.plot([], [], " ", label=f"{name} the sampling strategy: not run")
        _legend_above(axes)
    style.note(figure, _facts(view, f"without: ablation {other}" if other else "", FAINT).replace("; ;", ";"))
    return Picture(
        figure, "Line charts of policy-gradient loss, reward and skip rate for RL with and without the sampling "
        "strategy. The file reports/curves.csv holds the numbers.",
        "The paper's figure 4: the same start and the same number of steps.",
    )  # fmt: skip


def _alarms(view: View, axes: Axes, folder: str) -> None:
    """Marks the alarms of all seeds on the thresholded rate."""
    cells = {f"artifacts/{folder}/{view.backbone}-{seed}" for seed in view.found.params.grid.seeds}
    thresholded = curve(view, "mixer" if folder == "ours" else folder, "val_skip_threshold")
    raised = [alarm for alarm in view.found.alarms if alarm["cell"] in cells]
    for kind in dict.fromkeys(alarm["kind"] for alarm in raised):
        steps = sorted({alarm["step"] for alarm in raised if alarm["kind"] == kind})
        heights = [float(thresholded["mean"].get(step, 0.0)) for step in steps]
        axes.plot(
            steps, heights, marker=_MARKS.get(kind, "d"), linestyle="none", color=style.RANDOM, markersize=10,
            markeredgecolor="white", label=f"alarm: {kind} ({len(steps)})", zorder=5,
        )  # fmt: skip
    if not raised:
        axes.plot([], [], " ", label="no alarm raised")
