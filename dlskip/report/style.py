"""One look for every figure: a colour-blind safe palette with one colour per method, fonts, and saving."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

INK, MUTED, RULE = "#1f2933", "#5f6b76", "#d5dbe1"
OURS, RANDOM, VANILLA = "#0067a5", "#d55e00", "#1f2933"
# ours at each batch rule: one hue, told apart by marker and depth of colour
BATCH: dict[str, dict[str, Any]] = {
    "1": {"color": OURS, "marker": "o", "linestyle": "-"},
    "8": {"color": "#4a98c9", "marker": "s", "linestyle": "-"},
    "16": {"color": "#8fc1e0", "marker": "^", "linestyle": "-"},
    "per_sample": {"color": OURS, "marker": "o", "linestyle": ":", "markerfacecolor": "white", "markersize": 7.5},
}
SECOND = "#8a4f7d"  # another variant of training; never a method
HALO = [withStroke(linewidth=2.5, foreground="white")]  # keeps words legible over lines
HEAT = mpl.colors.LinearSegmentedColormap.from_list("skip", ["#f3f6f9", "#b9d5e8", "#4a98c9", "#0067a5", "#063a5f"])
_CJK = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "PingFang SC", "Heiti SC", "Microsoft YaHei", "SimHei", "Droid Sans Fallback", "Arial Unicode MS", "Unifont",
)  # fmt: skip


def _families() -> list[str]:
    """DejaVu Sans, which Matplotlib brings, then whatever font for Chinese the machine has."""
    have = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _CJK if name in have)]


def drawable(text: str) -> bool:
    """Whether some font of the figure has every character."""
    faces = [font_manager.get_font(font_manager.findfont(name)) for name in _families()]
    return all(any(face.get_char_index(ord(c)) for face in faces) for c in text if not c.isspace())


def escaped(text: str) -> str:
    """The text, with each character that no font has as ``U+4F60``."""
    return "".join(c if drawable(c) else f"U+{ord(c):04X} " for c in text)


@contextmanager
def style(dpi: int) -> Iterator[None]:
    """The report's Matplotlib settings; SVG output is the same bytes for the same data."""
    settings: dict[str, Any] = {
        "font.family": _families(), "font.size": 9.5, "axes.titlesize": 10.5, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.titlepad": 9, "axes.edgecolor": MUTED, "axes.labelcolor": INK,
        "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.6,
        "axes.axisbelow": True, "lines.linewidth": 1.7, "lines.markersize": 5.5, "legend.frameon": False,
        "figure.dpi": dpi, "savefig.dpi": dpi, "figure.facecolor": "white", "svg.hashsalt": "dlskip",
        "svg.fonttype": "path", "figure.constrained_layout.use": True,
        "figure.constrained_layout.h_pad": 0.09,
    }  # fmt: skip
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # a font without a bold cut is fine
    with plt.rc_context(settings):
        yield


def panels(*shape: int, **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes, as ``pyplot.subplots`` gives them."""
    figure, axes = plt.subplots(*shape, **options)
    return figure, axes


def save(figure: Figure, directory: Path, name: str) -> None:
    """Writes ``<name>.png`` and ``<name>.svg`` and closes the figure."""
    directory.mkdir(parents=True, exist_ok=True)
    figure.savefig(directory / f"{name}.png", metadata={"Software": None})
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def note(figure: Figure, text: str) -> None:
    """A line under the figure: what n is, how it is averaged."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=MUTED)


def blank(axes: Axes, text: str) -> None:
    """An empty panel that says why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
