"""``python -m dlskip.workflow.show`` prints the headline table and where the report is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dlskip.report.headline import fill_readme

REPORTS = Path("reports")


def main() -> None:
    """Prints the headline table as it was written by the figures stage."""
    parser = argparse.ArgumentParser(prog="python -m dlskip.workflow.show", description=__doc__)
    parser.add_argument("--readme", action="store_true", help="also put the table into README.md")
    options = parser.parse_args()
    table, page = REPORTS / "tables" / "headline.md", REPORTS / "index.html"
    if not table.is_file():
        sys.exit(f"error: {table}: no such file\n  mend: make repro")
    if options.readme:
        fill_readme(Path("README.md"), table.with_name("summary.md").read_text(encoding="utf-8"))
    print(table.read_text(encoding="utf-8"))
    print(f"Report: {page.resolve()}")


if __name__ == "__main__":
    main()
