"""What the report reads of the grid's runs, in one small archive that git holds: ``reports/runs.tar.xz``.

Evaluations, timings, curves and provenance are in it, no weights. Stage ``results`` packs it; stage ``figures`` draws
from it alone: a fresh clone redraws every table and figure without training.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from dlskip.config import Params
from dlskip.errors import DlskipError

REPORTS = Path("reports")
ARCHIVE = "runs.tar.xz"
FOLDERS = ("evaluations", "speeds", "artifacts")
_READ = re.compile(
    r"rows\.csv|layers\.csv|curves\.csv|predictions\.jsonl|(?:traces|signatures|alarms|provenance)\.json"
)


def pack(params: Params, root: Path, archive: Path) -> None:
    """Writes the archive; the same files make the same bytes.

    Args:
        params: ``grid.backbones`` and ``grid.seeds`` say which runs count.
        root: Where ``evaluations/``, ``speeds/``, ``artifacts/``, ``data/`` and ``models/`` lie.
        archive: What is written.

    Raises:
        DlskipError: There is no evaluation.
    """
    names = sorted(_wanted(params, root))
    if not any(name.startswith("evaluations") for name in names):
        raise DlskipError("nothing of this grid has been evaluated", where=str(root.resolve()), mend="make repro")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for name in names:
            content = (root / name).read_bytes()
            entry = tarfile.TarInfo(name)  # neither time nor owner
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _wanted(params: Params, root: Path) -> Iterator[str]:
    runs = {f"{backbone}-{seed}" for backbone in params.grid.backbones for seed in params.grid.seeds}
    for folder in FOLDERS:
        for path in (root / folder).rglob("*"):
            name = path.relative_to(root)
            if _READ.fullmatch(path.name) and name.parts[2] in runs and path.is_file():
                yield name.as_posix()
    about = [f"models/{backbone}/{part}.json" for backbone in params.grid.backbones for part in ("config", "source")]
    yield from (n for n in ("data/manifest.json", "data/overlap.json", *about) if (root / n).is_file())
