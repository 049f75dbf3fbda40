"""Shows the headline table and where the report is."""

from __future__ import annotations

from pathlib import Path

from dlskip.errors import DlskipError
from dlskip.report.headline import fill_readme

REPORTS = Path("reports")


def show(reports: Path = REPORTS, *, readme: bool = False) -> None:
    """Prints the headline table as stage ``figures`` wrote it.

    Args:
        reports: Where the report lies.
        readme: Also put the table into README.md.

    Raises:
        DlskipError: There is no report.
    """
    table, page = reports / "tables" / "headline.md", reports / "index.html"
    if not table.is_file():
        raise DlskipError("no such file", where=str(table), mend="make repro")
    if readme:
        fill_readme(Path("README.md"), table.with_name("summary.md").read_text(encoding="utf-8"))
    print(table.read_text(encoding="utf-8"))
    print(f"Report: {page.resolve()}")
