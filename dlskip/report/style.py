"""One look for every figure of the report: fixed colours per method, and two widths."""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlskip.plotting import theme

# As in every picture of dlskip.
INK = theme.INK
MUTED = theme.MUTED
RULE = theme.RULE
PAPER = theme.PAPER
OURS = theme.OURS
RANDOM = theme.RANDOM
VANILLA = INK
SECOND = theme.SECOND
Dashes = str | tuple[float, tuple[float, ...]]
# A colour, a marker and a kind of line per method: in grey, or to a reader who sees fewer hues, the latter two remain.
_LOOKS: dict[str, tuple[str, str, Dashes]] = {
    "vanilla": (VANILLA, "*", (0, (5, 3))),
    "vanilla_long": ("#4d2060", ">", (0, (1, 2))),
    "skip_decode": ("#881dd9", "v", (0, (6, 2, 1, 2))),
    "static": ("#627435", "s", "-"),
    "pretrain_static": ("#464c00", "D", (0, (4, 1.5))),
    "unified": ("#b8517b", "^", (0, (1.5, 1.5))),
    "early_exit": ("#662b28", "<", (0, (7, 2, 1, 2, 1, 2))),
    "shortgpt": ("#d92d5d", "P", (0, (3, 1, 1, 1))),
    "ours": (OURS, "o", "-"),
    "random": (RANDOM, "X", (0, (1, 1))),
}
# Methods that this list does not know (ablations): any of these, by name, so that a name always looks the same.
_OTHERS = ["#8a4f7e", "#4f6d7a", "#7d5a3c", "#3d6b4f", "#6a5acd", "#a0522d"]
_OTHER_MARKS: list[tuple[str, Dashes]] = [
    ("p", (0, (4, 2))), ("h", (0, (2, 1))), (">", (0, (6, 2))), ("d", (0, (1, 1.5))), ("H", (0, (4, 1, 1, 1))),
]  # fmt: skip
BEHIND = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.8}  # keeps words legible over lines
HEAT = mpl.colors.LinearSegmentedColormap.from_list("skip", [mpl.colors.to_rgba(OURS, a) for a in (0.05, 1.0)])
NARROW = 4.6  # inches: a figure for a screen held upright
_narrow = False


def look(method: str) -> dict[str, Any]:
    """A method's colour, marker and kind of line, the same in every figure and in the page."""
    if method in _LOOKS:
        colour, marker, line = _LOOKS[method]
    else:
        code = zlib.crc32(method.encode())
        colour = _OTHERS[code % len(_OTHERS)]
        marker, line = _OTHER_MARKS[code // len(_OTHERS) % len(_OTHER_MARKS)]
    return {"color": colour, "marker": marker, "linestyle": line}


@contextmanager
def style(*, narrow: bool = False) -> Iterator[None]:
    """The settings of all pictures; if ``narrow``, panels stand below each other, for a screen held upright."""
    global _narrow
    before, _narrow = _narrow, narrow
    try:
        with theme.applied():
            yield
    finally:
        _narrow = before


def panels(count: int, columns: int, width: float, height: float, *, room: float = 0.9) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, ``columns`` of them side by side, or fewer if it is to be narrow.

    ``width`` and ``height`` are those of a panel, ``room`` is the height of what stands above and below, all in inches.
    """
    if _narrow:
        columns = min(columns, max(1, int(NARROW / (0.72 * width))))
        width = NARROW / columns
    rows = -(-count // columns)
    if _narrow and columns == 1:  # each panel with margins of its own: long labels of one do not narrow the others
        figure = plt.figure(figsize=(width, height * rows + room))
        return figure, [part.subplots() for part in figure.subfigures(rows, 1, squeeze=False).flat]
    figure, grid = plt.subplots(rows, columns, figsize=(width * columns, height * rows + room), squeeze=False)
    for axes in grid.flat[count:]:
        axes.axis("off")
    return figure, list(grid.flat[:count])


def short(text: str, width: int = 17) -> str:
    """A label at the side, in two lines if the figure is to be narrow."""
    return textwrap.fill(text, width) if _narrow else text


def legend(figure: Figure, handles: Sequence[Any], columns: int = 5) -> None:
    """The figure's legend, above all panels."""
    columns = min(columns, 2) if _narrow else columns
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, fontsize=8 if _narrow else 9, handlelength=2.4
    )


def note(figure: Figure, text: str) -> None:
    """What n is and how it is averaged, under the figure, in as many lines as it needs."""
    text = textwrap.fill(text, int(14.2 * figure.get_figwidth()))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8.5, color=MUTED)


def blank(axes: Axes, text: str = "not run") -> None:
    """An empty panel that says why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
