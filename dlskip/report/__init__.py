"""From evaluations and training curves to tables, figures, ``metrics.json`` and one page."""

from __future__ import annotations

import json
from pathlib import Path

from dlskip.config import Params
from dlskip.report import collect, figures, headline, style, tables, traces
from dlskip.report.page import render
from dlskip.report.view import View


def build(params: Params, root: Path) -> None:
    """Writes everything under ``root/reports``.

    Figures and the page's headline are of the grid's first backbone; tables hold all of them.

    Args:
        params: All parameters; ``grid`` says which cells count.
        root: The repository's root, with ``evaluations/``, ``artifacts/`` and ``data/``.

    Raises:
        DlskipError: A file of a cell is missing or malformed.
    """
    reports = root / "reports"
    found = collect.collect(params, root)
    views = [View(found, backbone) for backbone in params.grid.backbones]
    collect.write(found, reports)
    made = tables.build(views)
    for table in made:
        table.write(reports / "tables")
    for name, frame in tables.plot_data(views[0]).items():
        frame.to_csv(reports / "tables" / f"{name}.csv", index=False)
    with style.style(params.figures.dpi):
        figures.draw(views[0], reports / "figures")
        traces.draw(views[0], reports / "figures")
    numbers = headline.metrics(views)
    (reports / "metrics.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (reports / "index.html").write_text(render(views, made, reports / "figures"), encoding="utf-8")
