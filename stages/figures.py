"""Stage figures: tables, figures, the headline and the report's page."""

from dlskip import config
from dlskip.workflow.redraw import draw
from dlskip.workflow.results import ARCHIVE, REPORTS
from dlskip.workflow.script import stage


def main() -> None:
    draw(config.load_params(), REPORTS / ARCHIVE, REPORTS)


if __name__ == "__main__":
    stage(main)
