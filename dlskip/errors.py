"""The one error type that reaches a user: what is wrong, where, and how to mend it."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from pydantic import ValidationError


class DlskipError(Exception):
    """A mistake the user can mend: a bad parameter, a broken row, a missing model.

    Examples:
        >>> print(DlskipError("no such file", where="rows.jsonl", mend="give the path of a file"))
        rows.jsonl: no such file
          mend: give the path of a file

    Args:
        message: What is wrong, in one sentence.
        where: The file, line, key or argument at fault.
        mend: What to do about it.
    """

    def __init__(self, message: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.message = message
        self.where = where
        self.mend = mend
        text = f"{where}: {message}" if where else message
        super().__init__(f"{text}\n  mend: {mend}" if mend else text)


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_TAKEN = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY}
_MEMORY = re.compile("out of memory|can't allocate memory|Cannot allocate memory|bad_alloc")


def worded(error: BaseException) -> DlskipError | None:
    """What the machine refuses (disk, permissions, memory) as one message; None: it is a bug, or one already.

    Examples:
        >>> print(worded(OSError(28, "No space left on device", "rows.csv")))
        rows.csv: No space left on device
          mend: free some, and run the same command again
    """
    said, number, where = str(error).partition("\n")[0], None, None
    if isinstance(error, OSError):
        number, where, said = error.errno, error.filename, error.strerror or said
    elif found := re.search(r"os error (\d+)|Os \{ code: (\d+)", said):  # safetensors
        number = int(found[1] or found[2])
        said = os.strerror(number)
    elif isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(str(error))):
        return DlskipError("out of memory", mend="smaller batches, fewer stages at a time, or a smaller model")
    else:
        return None
    mend = None
    if number in _FULL:
        mend = "free some, and run the same command again"
    elif number in _CLOSED:
        mend = "make it readable and writable for you, or work in another folder"
    elif number in _TAKEN:
        mend = "move away what has that name"
    return DlskipError(said, where=None if where is None else os.fsdecode(where), mend=mend)


@contextmanager
def one_message() -> Iterator[None]:
    """Ends the program with one message, and a non-zero exit, where the user or the machine is at fault.

    Everything else is a bug, and keeps its traceback.
    """
    try:
        yield
    except DlskipError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")
    except Exception as error:
        if (found := worded(error)) is None:
            raise
        sys.exit(f"error: {found}")


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Names the extra that installs a package which the enclosed code imports.

    Args:
        extra: A name under ``optional-dependencies`` in pyproject.toml.

    Raises:
        DlskipError: The package is not installed.

    Examples:
        >>> with needs("bench"):
        ...     import pandas as pd
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "dlskip").partition(".")[0] == "dlskip":
            raise  # our own mistake
        raise DlskipError(f"needs the package {error.name}", mend=f"pip install 'dlskip[{extra}]'") from error


def offences(error: ValidationError, known: Iterable[str], prefix: str = "") -> str:
    """A validation error on one line: each key's path, what is wrong with it, and what was found.

    Examples:
        >>> from dlskip.config import Section
        >>> class Train(Section):
        ...     steps: int
        >>> try:
        ...     Train.model_validate({"step": 5})
        ... except ValidationError as error:
        ...     print(offences(error, Train.model_fields))
        step: unknown key, did you mean `steps`? (got 5)

    Args:
        error: Pydantic's error.
        known: Keys that there are, to suggest one for a misspelt key.
        prefix: Path of the validated part.
    """
    errors = error.errors(include_url=False)
    missing = {e["loc"] for e in errors if e["type"] == "missing"}
    found_as: dict[tuple[int | str, ...], str] = {}  # a misspelt key -> the name that it was meant to have
    for e in errors:
        if e["type"] == "extra_forbidden":
            lacking = [str(loc[-1]) for loc in missing if loc[:-1] == e["loc"][:-1]]
            close = [m for names in (lacking, sorted(known)) for m in get_close_matches(str(e["loc"][-1]), names, 1)]
            found_as[e["loc"]] = close[0] if close else ""
    meant = {(*loc[:-1], name) for loc, name in found_as.items()}  # one mistake is said once
    parts = []
    for e in errors:
        problem, found = e["msg"].removeprefix("Value error, "), f" (got {e['input']!r:.60})"
        if e["loc"] in missing:
            if e["loc"] in meant:
                continue
            problem, found = "is missing", ""
        elif e["loc"] in found_as:
            name = found_as[e["loc"]]
            problem = "unknown key" + (f", did you mean `{name}`?" if name else "")
        elif e["type"] == "value_error":
            found = ""  # our own sentence says it
        path = (prefix + ".".join(map(str, e["loc"]))).removesuffix(".")
        parts.append(f"{path}: {problem}{found}" if path else f"{problem}{found}")
    return "; ".join(parts)
