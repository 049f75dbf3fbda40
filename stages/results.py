"""Stage results: what the report reads of all runs, packed into one small archive."""

from pathlib import Path

from dlskip import config
from dlskip.workflow.results import ARCHIVE, REPORTS, pack
from dlskip.workflow.script import stage


def main() -> None:
    pack(config.load_params(), Path(), REPORTS / ARCHIVE)


if __name__ == "__main__":
    stage(main)
