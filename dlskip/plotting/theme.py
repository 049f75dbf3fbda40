"""Colours and Matplotlib settings of all pictures: the learned policy is blue in a benchmark and in the report."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

INK = "#1f2933"
MUTED = "#5f6b76"
RULE = "#d5dbe1"
PAPER = "#ffffff"
OURS = "#0067a5"
RANDOM = "#bd4f07"
SECOND = "#8a4f7d"  # another variant of training; never a method
# Every colour of a picture on a dark ground. What is drawn in another colour stays as it is.
DARK = {
    PAPER: "#1c2229", INK: "#e6e9ec", MUTED: "#a9b3bd", RULE: "#343c45", OURS: "#4aa3dc", RANDOM: "#f08a3c",
    SECOND: "#c493b8", "#881dd9": "#b884f0", "#627435": "#94c456", "#464c00": "#b3ab5e", "#b8517b": "#e08bb0",
    "#662b28": "#c0817c", "#d92d5d": "#ff6b88", "#8a4f7e": "#c493b9", "#4f6d7a": "#8fb0bf", "#7d5a3c": "#c29b7a",
    "#3d6b4f": "#7fb596", "#e9a06a": "#f3bd93", "#75a23a": "#9ccb5f", "#1a5276": "#6fb3dd", "#6a5acd": "#a79cf0",
    "#a0522d": "#d98b62", "#4d2060": "#c9a0dc",
}  # fmt: skip
_SETTINGS: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "Verdana", "Noto Sans CJK SC", "sans-serif"], "font.size": 9.5,
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 9,
    "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK, "xtick.color": MUTED,
    "ytick.color": MUTED, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True, "lines.linewidth": 1.7,
    "lines.markersize": 5.5, "legend.frameon": False, "figure.facecolor": PAPER, "svg.hashsalt": "dlskip",
    "svg.fonttype": "none", "path.simplify_threshold": 0.3, "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.09, "figure.constrained_layout.w_pad": 0.09,
    "text.parse_math": False,  # a token may hold two dollar signs
}  # fmt: skip


@contextmanager
def applied(dpi: int = 100) -> Iterator[None]:
    """Draws with these settings; the same data give the same bytes. ``dpi``: of what is drawn in pixels."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # the reader's machine has other fonts
    with plt.rc_context(_SETTINGS | {"figure.dpi": dpi, "savefig.dpi": dpi}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def svg(figure: Figure) -> str:
    """The figure as a drawing with its words as words; a reader who prefers a dark screen sees the dark colours."""
    with io.StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        text = re.sub(r"(\.\d\d)\d+", r"\1", file.getvalue())  # to a hundredth of a point
    plt.close(figure)
    rules = [f'[style*="{part}: {c}"]{{{part}:{d}!important}}' for c, d in DARK.items() for part in ("fill", "stroke")]
    rules.append("image{filter:brightness(1.7)}")
    head, start, rest = text.partition("<defs>")
    return f"{head}<style>@media (prefers-color-scheme:dark){{{''.join(rules)}}}</style>\n{start}{rest}"
