"""Figures of how it was trained, and of one sentence token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from dlskip.report import style
from dlskip.report.collect import STAGES
from dlskip.report.view import View, short

LOST = "\N{REPLACEMENT CHARACTER}"  # a token that is part of a character


def draw(view: View, directory: Path) -> None:
    """Writes ``training``, ``rl_sampling`` and ``token_depth``."""
    style.save(training(view), directory, "training")
    style.save(rl_sampling(view), directory, "rl_sampling")
    style.save(token_depth(view), directory, "token_depth")


def _curve(view: View, stage: str, metric: str, variant: str = "") -> pd.DataFrame:
    """Mean and range over seeds by step: columns mean, min, max."""
    rows = view.curves
    where = (rows["stage"] == stage) & (rows["metric"] == metric) & (rows["variant"].fillna("") == variant)
    return rows[where].groupby("step")["value"].agg(["mean", "min", "max"])


def _smooth(values: pd.Series) -> pd.Series:
    return values.rolling(max(3, len(values) // 8), center=True, min_periods=1).mean()


def _line(
    axes: Axes, curve: pd.DataFrame, colour: str, label: str, *, smooth: bool = True, dashed: bool = False
) -> bool:
    """Draws a curve (raw beneath, smoothed above; the range over seeds shaded); False if there is none."""
    if curve.empty:
        return False
    raw, look = curve["mean"], (0, (4, 2)) if dashed else "-"
    if (curve["max"] > curve["min"]).any():
        axes.fill_between(curve.index, curve["min"], curve["max"], color=colour, alpha=0.12, linewidth=0)
    if smooth:
        axes.plot(raw.index, raw, color=colour, alpha=0.3, linewidth=0.9)
        axes.plot(raw.index, _smooth(raw), color=colour, label=label, linestyle=look)
    else:
        axes.plot(raw.index, raw, color=colour, label=label, marker="o", markersize=3, linestyle=look)
    return True


def training(view: View) -> Figure:
    """Loss of every stage; then skip rates, reward and held-out cross entropy of the stages with a policy."""
    figure, grid = style.panels(2, 5, figsize=(15.5, 5.9))
    for axes, stage in zip(grid[0], STAGES, strict=True):
        metric, name = ("ce_reward", "cross entropy, sampled masks") if stage == "rl" else ("loss", "loss")
        axes.set_title(stage)
        if _line(axes, _curve(view, stage, metric), style.INK, name):
            axes.set(xlabel="step", ylabel=name)
        else:
            style.blank(axes, "not run")
    rates = {
        "skip_sampled": ("training, sampled", style.MUTED, True, False),
        "val_skip_sampled": ("held out, sampled", style.SECOND, False, True),
        "val_skip_threshold": ("held out, threshold 0.5", style.OURS, False, False),
    }
    errors = {
        "val_ce_sampled": ("sampled", style.SECOND, False, True),
        "val_ce_threshold": ("threshold 0.5", style.OURS, False, False),
        "val_ce_full": ("nothing skipped", style.INK, False, False),
    }
    panels: list[tuple[str, str, str, dict[str, Any]]] = [
        ("rl", "rl: skipped share", "share of layers", rates),
        ("rl", "rl: reward", "reward", {"reward": ("reward", style.INK, True, False)}),
        ("rl", "rl: held-out cross entropy", "cross entropy", errors),
        ("mixer", "mixer: skipped share", "share of layers", rates),
        ("mixer", "mixer: held-out cross entropy", "cross entropy", errors),
    ]
    for axes, (stage, title, label, metrics) in zip(grid[1], panels, strict=True):
        axes.set_title(title)
        drawn = [_line(axes, _curve(view, stage, m), c, t, smooth=s, dashed=d) for m, (t, c, s, d) in metrics.items()]
        if any(drawn):
            axes.set(xlabel="step", ylabel=label)
            if len(metrics) > 1:
                axes.legend(fontsize=7.5, handlelength=1.8)
        else:
            style.blank(axes, "not run")
    return figure


def rl_sampling(view: View) -> Figure:
    """The paper's figure 4: RL with and without the sampling strategy (and any further variant)."""
    figure, grid = style.panels(1, 3, figsize=(13, 3.9))
    variants = list(view.found.params.ablations.variants)
    colours = [style.OURS, style.SECOND, style.RANDOM, style.MUTED, style.INK]
    panels = (("loss", "Policy-gradient loss"), ("reward", "Reward"), ("skip_sampled", "Sampled share skipped"))
    for axes, (metric, title) in zip(grid, panels, strict=True):
        axes.set_title(title)
        drawn = []
        for i, variant in enumerate(variants):
            curve = _curve(view, "ablations", metric, variant)
            drawn.append(_line(axes, curve, colours[i % len(colours)], variant.replace("_", " ")))
        if any(drawn):
            axes.set_xlabel("step")
        else:
            style.blank(axes, "not run")
    if grid[0].get_legend_handles_labels()[1]:
        grid[0].legend(fontsize=9)
    style.note(figure, "faint: as logged; solid: moving average")
    return figure


def headline_traces(view: View) -> list[dict[str, Any]]:
    """The translated sentences of ours at the headline setting."""
    wanted = view.headline.ours.setting
    return [t for t in view.found.traces.get(view.backbone, []) if t["setting"] == wanted and len(t["tokens"]) > 1]


def _readable(tokens: list[str]) -> bool:
    return LOST not in "".join(tokens) and style.drawable("".join(tokens))


def token_depth(view: View) -> Figure:
    """Which layers ran for each token of one sentence; above, how many."""
    traces = headline_traces(view)
    if not traces:
        figure, axes = style.panels(figsize=(9, 3))
        axes.set_title("Layers run per token")
        style.blank(axes, "not run")
        return figure
    # one whose tokens can all be shown, and long, if it fits
    trace = max(traces, key=lambda t: (_readable(t["tokens"]), len(t["tokens"]) <= 26, len(t["tokens"])))
    ran = np.array(trace["ran"], dtype=float).T  # (layers, tokens)
    layers, tokens = ran.shape
    figure, axes = style.panels(figsize=(min(15, 2.4 + 0.46 * tokens), 0.135 * layers + 2.1))
    axes.pcolormesh(
        np.arange(tokens + 1) - 0.5, np.arange(layers + 1) - 0.5, ran,
        cmap=ListedColormap(["#e6ebf0", style.OURS]), vmin=0, vmax=1, edgecolor="white", linewidth=0.7,
    )  # fmt: skip
    labels = [style.escaped(t.strip().replace(LOST, "·")) or "␣" for t in trace["tokens"]]
    axes.set_xticks(range(tokens), labels, rotation=50, ha="right", rotation_mode="anchor", color=style.INK)
    axes.set_yticks(range(0, layers, 5 if layers > 12 else 1))
    axes.set_ylabel("layer")
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for i, total in enumerate(ran.sum(axis=0)):
        axes.text(i, layers - 0.1, f"{total:.0f}", ha="center", va="bottom", fontsize=8.5, color=style.OURS)
    axes.set_title(f"Layers run per token, of {layers} ({short(trace['task'])}, threshold {trace['setting']})", pad=22)
    style.note(
        figure, "filled: the layer ran; pale: it was skipped; on top: layers run; <prompt>: one decision for all of it"
    )
    return figure
