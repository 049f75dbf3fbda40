"""Model files that come in packages of PyPI. Only the file is read; no code of its package is run."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from dlskip.errors import DlskipError


def find(package: str, ending: str, where: str, mend: str) -> tuple[str, Path]:
    """An installed package's version, and the file in it whose name ends so.

    Args:
        package: Its name on PyPI.
        ending: Of the file's name.
        where: What asks for it.
        mend: How to install it.

    Raises:
        DlskipError: The package is not installed, or lacks the file.
    """
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise DlskipError(f"the package {package} is not installed", where=where, mend=mend) from error
    named = [file for file in found.files or [] if file.name.endswith(ending)]
    if not named:
        raise DlskipError(f"no {ending} file in the package", where=package, mend="install it again")
    return found.version, Path(str(found.locate_file(named[0])))
