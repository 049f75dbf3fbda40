"""Stage figures: tables, figures, the headline and the report's page."""

from pathlib import Path

from dlskip import config, report
from dlskip.workflow.script import stage


def main() -> None:
    report.build(config.load_params(), Path())


if __name__ == "__main__":
    stage(main)
