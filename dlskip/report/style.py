"""One look for every figure: a colour-blind safe palette with one colour per method, fonts, and saving."""

from __future__ import annotations

import logging
import re
import textwrap
import zlib
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
Dashes = str | tuple[float, tuple[float, ...]]
# A colour, a marker and a kind of line per method: in grey, or to a reader who sees fewer hues, the latter two remain.
_LOOKS: dict[str, tuple[str, str, Dashes]] = {
    "vanilla": (VANILLA, "*", (0, (5, 3))),
    "skip_decode": ("#881dd9", "v", (0, (6, 2, 1, 2))),
    "static": ("#75a23a", "s", "-"),
    "pretrain_static": ("#5d581f", "D", (0, (4, 1.5))),
    "unified": ("#bc537e", "^", (0, (1.5, 1.5))),
    "early_exit": ("#662b28", "<", (0, (7, 2, 1, 2, 1, 2))),
    "shortgpt": ("#d9204b", "P", (0, (3, 1, 1, 1))),
    "ours": (OURS, "o", "-"),
    "random": (RANDOM, "X", (0, (1, 1))),
}
# Methods that this list does not know (ablations): any of these, by name, so that a name always looks the same.
_OTHERS = ["#8a4f7d", "#4f6d7a", "#7d5a3c", "#3d6b4f", "#6a5acd", "#a0522d"]
_OTHER_MARKS: list[tuple[str, Dashes]] = [
    ("p", (0, (4, 2))), ("h", (0, (2, 1))), (">", (0, (6, 2))), ("d", (0, (1, 1.5))), ("H", (0, (4, 1, 1, 1))),
]  # fmt: skip


def look(method: str) -> dict[str, Any]:
    """A method's colour, marker and kind of line, the same in every figure and in the page."""
    if method in _LOOKS:
        colour, marker, line = _LOOKS[method]
    else:
        code = zlib.crc32(method.encode())
        colour = _OTHERS[code % len(_OTHERS)]
        marker, line = _OTHER_MARKS[code // len(_OTHERS) % len(_OTHER_MARKS)]
    return {"color": colour, "marker": marker, "linestyle": line}


def legible(colour: str, paper: str = "#ffffff") -> str:
    """The colour, moved away from that of the paper until text in it has a contrast of 4.5 at least."""
    goal = 0.0 if _luminance(mpl.colors.to_rgb(paper)) > 0.18 else 1.0
    rgb, share = mpl.colors.to_rgb(colour), 0.0
    while contrast(found := mpl.colors.to_hex([c + share * (goal - c) for c in rgb]), paper) < 4.5:
        share += 0.02
    return str(found)


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG defines it: 1 to 21."""
    lights = sorted(_luminance(mpl.colors.to_rgb(c)) for c in (one, other))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(rgb: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# ours at each batch rule: one hue, told apart by marker and depth of colour
BATCH: dict[str, dict[str, Any]] = {
    "1": {"color": OURS, "marker": "o", "linestyle": "-"},
    "8": {"color": "#4a98c9", "marker": "s", "linestyle": (0, (4, 1.5))},
    "16": {"color": "#8fc1e0", "marker": "^", "linestyle": (0, (1.5, 1.5))},
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
        "figure.constrained_layout.h_pad": 0.09, "figure.constrained_layout.w_pad": 0.09,
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
    path = directory / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    path.write_text(slim(path.read_text(encoding="utf-8")), encoding="utf-8")
    plt.close(figure)


def slim(svg: str) -> str:
    """The drawing with paths to a hundredth of a point and without blank space: the page carries all of them."""
    svg = re.sub(r' d="([^"]*)"', lambda m: f' d="{_rounded(" ".join(m[1].split()), 2)}"', svg)
    svg = re.sub(r' (x|y|width|height)="([^"]*)"', lambda m: f' {m[1]}="{_rounded(m[2], 3)}"', svg)
    return re.sub(r">\s+<", "><", svg) + "\n" * (not svg.endswith("\n"))


def _rounded(text: str, digits: int) -> str:
    return re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.{digits}f}".rstrip("0").rstrip("."), text)


def note(figure: Figure, text: str) -> None:
    """What n is and how it is averaged, under the figure, in as many lines as it needs."""
    text = textwrap.fill(text, int(14.2 * figure.get_figwidth()))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=MUTED)


def blank(axes: Axes, text: str = "not run") -> None:
    """An empty panel that says why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
