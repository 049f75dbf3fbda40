"""What the report reads of the grid's runs, in one small archive that git holds: ``reports/runs.tar.xz``.

Evaluations, timings, curves and provenance are in it, no weights. Stage ``results`` packs it; stage ``figures`` draws
from it alone: a fresh clone redraws every table and figure without training.
"""

from __future__ import annotations

import io
import lzma
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dlskip import files, provenance
from dlskip.config import Params
from dlskip.errors import DlskipError

REPORTS = Path("reports")
ARCHIVE = "runs.tar.xz"
FOLDERS = ("evaluations", "speeds", "artifacts")
MOST = 1 << 30  # bytes of all files of an archive; those of the largest grid here are 50 MB
_NAMES = ("rows.csv", "layers.csv", "curves.csv", "predictions.jsonl", "traces.json", "signatures.json", "alarms.json")
_ABOUT = re.compile(r"data/(?:manifest|overlap)\.json|models/[\w-]+/(?:config|source)\.json")


def pack(params: Params, root: Path, archive: Path) -> None:
    """Writes the archive; the same files make the same bytes.

    Args:
        params: ``grid.backbones`` and ``grid.seeds`` say which runs count.
        root: Where ``evaluations/``, ``speeds/``, ``artifacts/``, ``data/`` and ``models/`` lie.
        archive: What is written.

    Raises:
        DlskipError: There is no evaluation, or a file is not what its stage wrote.
    """
    names = sorted(_wanted(params, root))
    if not any(name.startswith("evaluations") for name in names):
        raise DlskipError("nothing of this grid has been evaluated", where=str(root.resolve()), mend="make repro")
    with files.aside(archive) as new, tarfile.open(new, "w:xz", preset=9) as tar:
        for name in names:
            content = (root / name).read_bytes()
            entry = tarfile.TarInfo(name)  # neither time nor owner
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _wanted(params: Params, root: Path) -> Iterator[str]:
    runs = {f"{backbone}-{seed}" for backbone in params.grid.backbones for seed in params.grid.seeds}
    # A folder without a mark is not finished, and one that a stage was killed in has lost its name or not yet got it.
    for mark in (mark for folder in FOLDERS for mark in (root / folder).rglob(provenance.MARK)):
        name = mark.relative_to(root)
        if name.parts[2] in runs and not any(part.endswith(files.ASIDE) for part in name.parts):
            provenance.check(mark.parent, *_NAMES)
            yield from ((mark.parent / n).relative_to(root).as_posix() for n in (*_NAMES, mark.name)
                        if (mark.parent / n).is_file())  # fmt: skip
    about = [f"models/{backbone}/{part}.json" for backbone in params.grid.backbones for part in ("config", "source")]
    yield from (n for n in ("data/manifest.json", "data/overlap.json", *about) if (root / n).is_file())


def unpack(archive: Path, root: Path) -> None:
    """Writes what ``pack`` packed into a folder, and nothing else that an archive may hold.

    Raises:
        DlskipError: The archive is missing, broken or too large, or holds something else.
    """
    mend = "git checkout it, or make it again: dvc repro results"
    left = MOST
    try:
        with tarfile.open(archive, "r:xz") as tar:
            for entry in tar:
                if not (entry.isfile() and _is_ours(entry.name)):
                    raise DlskipError(f"holds {entry.name!r:.80}, which is no result", where=str(archive), mend=mend)
                left -= entry.size
                if left < 0:
                    raise DlskipError(f"holds more than {MOST} bytes", where=str(archive), mend=mend)
                content, path = tar.extractfile(entry), root / entry.name
                assert content is not None
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        raise DlskipError(f"cannot be read: {error}", where=str(archive), mend=mend) from error


def _is_ours(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if not name.isprintable() or ".." in parts or name != "/".join(parts):
        return False
    of_run = parts[0] in FOLDERS and len(parts) > 3 and parts[-1] in (*_NAMES, provenance.MARK)
    return of_run or bool(_ABOUT.fullmatch(name))
