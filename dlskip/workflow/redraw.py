"""Draws a report from the archive of its results, without training.

``reports/reference/<recipe>/`` keeps the archives of other grids, each with its parameters.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from dlskip import config, files, report
from dlskip.config import Params
from dlskip.errors import DlskipError
from dlskip.workflow.results import ARCHIVE, FOLDERS, REPORTS, unpack

REFERENCE = REPORTS / "reference"


def draw(params: Params, archive: Path, reports: Path) -> None:
    """Draws the whole report from an archive.

    Args:
        params: Those that the runs were made with.
        archive: What ``pack`` wrote.
        reports: Where tables, figures and the page are written.

    Raises:
        DlskipError: The archive is missing or broken, or a file in it is malformed.
    """
    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        unpack(archive, root)
        report.build(params, root)
        for path in sorted((root / "reports").iterdir()):
            with files.aside(reports / path.name) as new:
                (shutil.copytree if path.is_dir() else shutil.copy)(path, new)


def redraw(name: str | None) -> Path:
    """Redraws a report from its archive, and packs that of params.yaml first if there are evaluations.

    Args:
        name: A folder of ``reports/reference``; None = the report of params.yaml, through DVC.

    Returns:
        Where the report lies.

    Raises:
        DlskipError: There is no such report, or DVC stopped.
    """
    if name is None:
        if not Path(FOLDERS[0]).is_dir() and not (REPORTS / ARCHIVE).is_file():
            raise DlskipError("nothing has been evaluated yet", where=str(REPORTS / ARCHIVE), mend="make repro")
        for stage in ("results", "figures") if Path(FOLDERS[0]).is_dir() else ("figures",):
            if subprocess.run([sys.executable, "-m", "dvc", "repro", "--single-item", stage], check=False).returncode:
                raise DlskipError(f"stage {stage} failed", mend="see above")
        return REPORTS
    where = REFERENCE / name
    if not (where / ARCHIVE).is_file():
        known = ", ".join(sorted(path.parent.name for path in REFERENCE.glob(f"*/{ARCHIVE}")))
        raise DlskipError(f"no report {name!r}", where=str(REFERENCE), mend=f"one of {known}")
    draw(config.load_params(where / "params.yaml"), where / ARCHIVE, where)
    layers = where / "layers.csv"  # the largest file by far
    layers.with_suffix(".csv.gz").write_bytes(gzip.compress(layers.read_bytes(), mtime=0))
    layers.unlink()
    return where


def keep() -> Path:
    """Keeps the runs of params.yaml as ``reports/reference/<recipe>``, and draws their report there."""
    name = config.load_params().recipe
    where = REFERENCE / name
    where.mkdir(parents=True, exist_ok=True)
    for path in (config.PARAMS, REPORTS / ARCHIVE):
        shutil.copy(path, where / path.name)
    return redraw(name)
