"""Figure of one sentence, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np

from dlskip.methods.settings import KNOBS, Setting, from_columns
from dlskip.report import style
from dlskip.report.figures_common import Picture
from dlskip.report.view import View, short

LOST = "\N{REPLACEMENT CHARACTER}"  # a token that is part of a character


def headline_traces(view: View) -> list[dict[str, Any]]:
    """The translated sentences of ours at the headline setting."""
    wanted = view.headline.ours.setting
    return [t for t in view.found.traces.get(view.backbone, []) if _setting(t) == wanted and len(t["tokens"]) > 1]


def _setting(trace: dict[str, Any]) -> Setting:
    return from_columns(*(trace[knob] for knob in KNOBS))


def token_depth(view: View) -> Picture:
    """Which layers ran for each token of one sentence; at the right, how many."""
    traces = headline_traces(view)
    alt = "Chart of which layers ran for each token of one translated sentence."
    if not traces:
        figure, (axes,) = style.panels(1, 1, 8, 3)
        axes.set_title("Layers run per token")
        style.blank(axes)
        return Picture(figure, alt, "No translated sentence at this setting has more than one token to show.")
    # one whose tokens are whole characters, and long, if it fits
    trace = max(traces, key=lambda t: (LOST not in "".join(t["tokens"]), len(t["tokens"]) <= 26, len(t["tokens"])))
    ran = np.array(trace["ran"], dtype=float)  # (tokens, layers)
    tokens, layers = ran.shape
    figure, (axes,) = style.panels(1, 1, 8, 0.21 * tokens + 0.5)
    axes.imshow(ran, cmap=style.HEAT, vmin=0, vmax=1, aspect="auto", interpolation="none")
    axes.set_yticks(range(tokens), [t.replace(LOST, "·").strip() or "␣" for t in trace["tokens"]], color=style.INK)
    axes.set_yticks(np.arange(tokens - 1) + 0.5, minor=True)
    axes.set_xticks(range(0, layers, 5 if layers > 12 else 1))
    axes.set_xlabel("layer")
    axes.tick_params(which="both", length=0)
    axes.grid(visible=False)
    axes.grid(visible=True, which="minor", axis="y", color=style.PAPER, linewidth=2)
    axes.spines[:].set_visible(False)
    for y, total in enumerate(ran.sum(axis=1)):
        axes.text(layers - 0.2, y, f"{total:.0f}", va="center", fontsize=8.5, color=style.OURS)
    axes.set_title(f"Layers run per token, of {layers}\n{short(trace['task'])}, {_setting(trace).label()}")
    style.note(figure, "filled: the layer ran; pale: it was skipped; at the right: layers run; <prompt>: one decision")
    return Picture(figure, alt, "One row per token that decides; the prompt decides once.")
