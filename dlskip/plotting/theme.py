"""Colours and Matplotlib settings of all pictures: the learned policy is blue in a benchmark and in the report."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

INK = "#1f2933"
MUTED = "#5f6b76"
RULE = "#d5dbe1"
PAPER = "#ffffff"
OURS = "#0067a5"
RANDOM = "#bd4f07"
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
