"""Shows the headline table and where the report is."""

from __future__ import annotations

from pathlib import Path

from dlskip.errors import DlskipError
from dlskip.report.headline import fill_readme

REPORTS = Path("reports")
# What README shows: the default's own table, and that of the larger run.
BLOCKS = {"headline": REPORTS, "evidence": REPORTS / "reference" / "wide"}


def show(reports: Path = REPORTS, *, readme: bool = False) -> None:
    """Prints the headline table as stage ``figures`` wrote it.

    Args:
        reports: Where the report lies.
        readme: Also put the table, and that of recipe wide, into README.md.

    Raises:
        DlskipError: There is no report.
    """
    table, page = reports / "tables" / "headline.md", reports / "index.html"
    if not table.is_file():
        raise DlskipError("no such file", where=str(table), mend="make repro")
    if readme:
        for block, directory in BLOCKS.items():
            summary = (directory / "tables" / "summary.md").read_text(encoding="utf-8")
            # What was not run stands in headline.md, which each summary points to.
            summary = summary.split(" Not run: ")[0].rstrip() + "\n"
            fill_readme(Path("README.md"), block, summary.replace("reports/tables/", f"{directory.as_posix()}/tables/"))
    print(table.read_text(encoding="utf-8"))
    print(f"Report: {page.resolve()}")
