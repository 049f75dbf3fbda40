"""From evaluations and training curves to tables, figures, ``metrics.json``, ``claims.json`` and one page."""

from __future__ import annotations

import json
from pathlib import Path

from dlskip.config import Params
from dlskip.report import claims, collect, figures, headline, tables
from dlskip.report.page import render
from dlskip.report.view import View


def build(params: Params, root: Path) -> None:
    """Writes everything under ``root/reports``.

    Figures and the page's headline are of the grid's first backbone; tables hold all of them.

    Args:
        params: All parameters; ``grid`` says which runs count.
        root: The repository's root, with ``evaluations/``, ``speeds/``, ``artifacts/``, ``data/`` and ``models/``.

    Raises:
        DlskipError: A file of a run is missing or malformed.
    """
    reports = root / "reports"
    found = collect.collect(params, root)
    views = [View(found, backbone) for backbone in params.grid.backbones]
    collect.write(found, reports)
    said = claims.find(views)
    made = tables.build(views, said)
    for table in (*made, tables.summary(views, made[0])):
        table.write(reports / "tables")
    for name, frame in tables.plot_data(views[0]).items():
        frame.to_csv(reports / "tables" / f"{name}.csv", index=False)
    drawn = figures.draw(views[0], reports / "figures")
    for name, value in {"metrics": headline.metrics(views), "claims": claims.document(found, said)}.items():
        (reports / f"{name}.json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (reports / "index.html").write_text(render(views, made, said, drawn), encoding="utf-8")
