"""Figure of one sentence, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from dlskip.methods.settings import KNOBS, Setting, from_columns
from dlskip.report import style
from dlskip.report.view import View, short

LOST = "\N{REPLACEMENT CHARACTER}"  # a token that is part of a character


def draw(view: View, directory: Path) -> None:
    """Writes ``token_depth``."""
    style.save(token_depth(view), directory, "token_depth")


def headline_traces(view: View) -> list[dict[str, Any]]:
    """The translated sentences of ours at the headline setting."""
    wanted = view.headline.ours.setting
    return [t for t in view.found.traces.get(view.backbone, []) if _setting(t) == wanted and len(t["tokens"]) > 1]


def _setting(trace: dict[str, Any]) -> Setting:
    return from_columns(*(trace[knob] for knob in KNOBS))


def _readable(tokens: list[str]) -> bool:
    return LOST not in "".join(tokens) and style.drawable("".join(tokens))


def token_depth(view: View) -> Figure:
    """Which layers ran for each token of one sentence; above, how many."""
    traces = headline_traces(view)
    if not traces:
        figure, axes = style.panels(figsize=(9, 3))
        axes.set_title("Layers run per token")
        style.blank(axes)
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
    axes.set_title(f"Layers run per token, of {layers} ({short(trace['task'])}, {_setting(trace).label()})", pad=22)
    style.note(
        figure, "filled: the layer ran; pale: it was skipped; on top: layers run; <prompt>: one decision for all of it"
    )
    return figure
