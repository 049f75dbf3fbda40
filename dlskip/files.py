"""Files that are there whole or not at all: written aside, renamed into place, and known again by their hashes."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dlskip.errors import DlskipError

ASIDE = (".new", ".old", ".gone")  # how the names end of what is being written, replaced or removed


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yields a name beside ``path`` for a file or folder, which takes its place once the block ends well.

    A process that is killed leaves what was there before, or for a folder, between the two renames, nothing.

    Examples:
        >>> with aside(Path("rows.csv")) as new:
        ...     _ = new.write_text("a,b\\n")

    Args:
        path: What is made or replaced; folders above it are made.

    Raises:
        OSError: It cannot be written; what was there before is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    remove(temporary)
    try:
        yield temporary
        old = path.with_name(f"{path.name}.old")
        remove(old)
        if path.is_dir() and not path.is_symlink():  # a folder cannot be renamed onto another
            path.replace(old)
        temporary.replace(path)
        remove(old)
    except BaseException:
        with suppress(OSError):
            remove(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8, whole or not at all."""
    with aside(path) as new:
        new.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Removes a file or folder. A folder first loses its name, so that half of it is never taken for all.

    Raises:
        OSError: It cannot be removed.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
        return
    gone = path.with_name(f"{path.name}.gone")
    if gone.exists():
        shutil.rmtree(gone)
    if path.exists():
        path.replace(gone)
        shutil.rmtree(gone)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(path: Path, mend: str | None = None) -> Any:
    """What a JSON file in UTF-8 holds.

    Raises:
        DlskipError: It is missing, cannot be read, is no JSON, or is nested too deep.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DlskipError(f"cannot be read: {error}", where=str(path), mend=mend) from error


def read_json(path: Path, mend: str | None = None) -> dict[str, Any]:
    """A JSON object from a file in UTF-8.

    Args:
        path: The file.
        mend: What to do if it is missing or broken.

    Raises:
        DlskipError: It is missing, cannot be read, is no JSON, is nested too deep, or is no object.
    """
    found = parse_json(path, mend)
    if not isinstance(found, dict):
        raise DlskipError("no JSON object", where=str(path), mend=mend)
    return found


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Holds a lock file while the block runs; the system lets go of it when the process ends, however it ends.

    Raises:
        DlskipError: Another process holds it, and which.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 20).decode("ascii", "replace").strip()
            os.close(file)
            raise DlskipError(
                f"already running, process {holder or 'unknown'}", where=lock.stem,
                mend="wait for its end, or end it and run this again",
            ) from error  # fmt: skip
        with suppress(FileNotFoundError):
            if os.fstat(file).st_ino == lock.stat().st_ino:  # else its last holder has just removed it
                break
        os.close(file)
    try:
        os.truncate(file, 0)
        os.write(file, b"%d\n" % os.getpid())
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(file)


def nearest(path: Path) -> str | None:
    """A path that exists and is spelt almost like one that does not.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "artifacts" / "ours").mkdir(parents=True)
        >>> str(nearest(folder / "artifact" / "our")) == str(folder / "artifacts" / "ours")
        True
    """
    if path.exists():
        return None
    here = Path(path.anchor) if path.is_absolute() else Path()
    for part in path.parts[path.is_absolute() :]:
        if part == ".." or (here / part).exists():
            here /= part
            continue
        try:
            close = get_close_matches(part, sorted(p.name for p in here.iterdir()), 1)
        except OSError:
            return None
        if not close:
            return None
        here /= close[0]
    return str(here)


def check_writable(folder: Path, where: str | None = None) -> None:
    """Whether a folder can be written to, or made: asked before the work whose results it is for.

    Raises:
        DlskipError: It is a file or a link to nothing, lies in one, or its permissions forbid it.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists() or path.is_symlink()), Path())
    if not there.is_dir():
        raise DlskipError(
            f"{there} is a file" if where else "is a file", where=where or str(there), mend="name a folder"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        said = "may not be written to"
        raise DlskipError(f"{there} {said}" if where else said, where=where or str(there), mend="name another folder")
