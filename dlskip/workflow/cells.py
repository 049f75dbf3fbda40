"""A grid on several machines: pack what the report reads of the cells made on one, gather it on another.

    python -m dlskip.workflow.cells pack seed1.tar.xz    # after `make repro` with grid.seeds=[1]
    python -m dlskip.workflow.cells gather seed1.tar.xz  # where params.yaml says grid.seeds=[0, 1]; then `make redraw`

Packed are evaluations, timings, curves and provenance, no weights. Gathered cells are there for the report; DVC knows
nothing of them, so `dvc repro` would compute them anew.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlskip import config
from dlskip.config import Params
from dlskip.errors import DlskipError
from dlskip.report.collect import STAGES

_NAME = r"[\w.-]+"
_CELL = re.compile(
    rf"(?:evaluations/{_NAME}/{_NAME}/(?:nlu|mt)|speeds/{_NAME}/{_NAME}|artifacts/{_NAME}/{_NAME}(?:/{_NAME})?)"
)
_FILES = re.compile(
    r"rows\.csv|layers\.csv|curves\.csv|predictions\.jsonl|(?:traces|signatures|alarms|provenance)\.json"
)
_ABOUT = re.compile(rf"data/(?:manifest|overlap)\.json|models/{_NAME}/(?:config|source)\.json")
MANIFEST = "data/manifest.json"


@dataclass(frozen=True)
class Gathered:
    """Directories of cells: those that came, and those that were here already and stayed as they are."""

    came: list[str]
    stayed: list[str]


def pack(params: Params, root: Path, archive: Path) -> int:
    """Writes what the report reads of the grid's cells into an archive (.tar.xz); returns how many files.

    Raises:
        DlskipError: There is nothing to pack.
    """
    files = sorted(path for path in _packed(params, root))
    if not any(path.startswith(("evaluations", "speeds", "artifacts")) for path in files):
        raise DlskipError("no cell of this grid has been made here", where=str(root.resolve()), mend="make repro")
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for name in files:
            content = (root / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return len(files)


def gather(archive: Path, root: Path) -> Gathered:
    """Unpacks the cells that are not under ``root`` yet; what is there is never overwritten.

    Raises:
        DlskipError: The archive is missing, broken, holds anything else, or its cells saw other data.
    """
    try:
        with tarfile.open(archive) as tar:
            content = {entry.name: _read(tar, entry, archive) for entry in tar}
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DlskipError(f"cannot be read: {error}", where=str(archive), mend="pack it again") from error
    _same_data(content, archive, root)
    came: dict[str, None] = {}
    stayed: dict[str, None] = {}
    there = {
        cell: (root / cell / "provenance.json").is_file() for cell in {name.rpartition("/")[0] for name in content}
    }
    for name, text in content.items():
        cell = name.rpartition("/")[0]
        if _ABOUT.fullmatch(name):
            if not (root / name).exists():
                _write(root / name, text)
        elif there[cell]:
            stayed[cell] = None
        else:
            _write(root / name, text)
            came[cell] = None
    return Gathered(list(came), list(stayed))


def _packed(params: Params, root: Path) -> Iterator[str]:
    grid = params.grid
    made = {*grid.methods, *grid.baselines, *grid.ablations, *STAGES.values()}
    cells = {f"{backbone}-{seed}" for backbone in grid.backbones for seed in grid.seeds}
    for folder in ("evaluations", "speeds", "artifacts"):
        for path in (root / folder).rglob("*"):
            name = path.relative_to(root).as_posix()
            _, method, cell, *_ = [*name.split("/"), "", ""]
            known = method in made and cell in cells and _CELL.fullmatch(name.rpartition("/")[0])
            if known and _FILES.fullmatch(path.name) and path.is_file():
                yield name
    about = ["data/manifest.json", "data/overlap.json"]
    about += [f"models/{backbone}/{part}.json" for backbone in grid.backbones for part in ("config", "source")]
    yield from (name for name in about if (root / name).is_file())


def _read(tar: tarfile.TarFile, entry: tarfile.TarInfo, archive: Path) -> bytes:
    folder, _, file = entry.name.rpartition("/")
    known = _ABOUT.fullmatch(entry.name) or (_CELL.fullmatch(folder) and _FILES.fullmatch(file))
    if not known or ".." in entry.name.split("/") or not entry.isreg():
        raise DlskipError(f"holds {entry.name!r}, which is no part of a cell", where=str(archive), mend="pack it again")
    content = tar.extractfile(entry)
    assert content is not None
    return content.read()


def _same_data(content: dict[str, bytes], archive: Path, root: Path) -> None:
    here = root / MANIFEST
    if not here.is_file() or MANIFEST not in content:
        return
    theirs, ours = (_hashes(json.loads(text)) for text in (content[MANIFEST], here.read_bytes()))
    if different := sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)):
        raise DlskipError(f"its cells saw other rows ({different[0]} differs)", where=str(archive),
                          mend="prepare the same data on both machines")  # fmt: skip


def _hashes(manifest: dict[str, dict[str, dict[str, str]]]) -> dict[str, str]:
    return {name: split["sha256"] for name, split in manifest["splits"].items()}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dlskip.workflow.cells",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("do", choices=["pack", "gather"])
    parser.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE", help="pack writes one, gather reads any")
    options = parser.parse_args()
    try:
        if options.do == "pack":
            if len(options.archives) != 1:
                parser.error("pack writes one archive")
            count = pack(config.load_params(), Path(), options.archives[0])
            print(f"packed {count} files into {options.archives[0]}")
            return
        for archive in options.archives:
            found = gather(archive, Path())
            print(f"{archive}: {len(found.came)} cells came, {len(found.stayed)} were here already")
        print("next: make redraw")
    except DlskipError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
