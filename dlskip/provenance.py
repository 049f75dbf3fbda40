"""Where a result comes from: command, parameters, versions, data, seed, device, time and memory."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from dlskip import __version__, files
from dlskip.errors import DlskipError

MARK = "provenance.json"  # written last: a folder without it is not finished
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "dvc")


def write(
    directory: Path,
    *,
    stage: str,
    config: dict[str, BaseModel],
    seed: int | None,
    data_sha256: str,
    device: str,
    started: float,
    training: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Writes ``directory/provenance.json`` and returns its contents: with the hashes of all files of the folder.

    Args:
        directory: A directory in which everything else has been written.
        stage: Name of the stage.
        config: The sections of params.yaml that it used.
        seed: The run's seed.
        data_sha256: Hash of the prepared rows.
        device: ``cpu`` or ``cuda``.
        started: ``time.time()`` at the start.
        training: Steps, rows, tokens and learning rate of what was trained.
    """
    commit = _git("rev-parse", "HEAD")
    packages = {p: _version(p) for p in _PACKAGES}
    record = {
        "stage": stage,
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "config": {name: section.model_dump() for name, section in config.items()},
        "versions": {"python": platform.python_version(), "dlskip": __version__, **packages},
        **({"training": training} if training else {}),
        "data_sha256": data_sha256,
        "seed": seed,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "seconds": round(time.time() - started, 1),
        "peak_memory_mb": peak_memory_mb(device),
        "git_commit": commit,
        "git_dirty": bool(_git("status", "--porcelain", "--", "dlskip", "stages", "params.yaml")) if commit else None,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "sha256": {name: files.sha256(directory / name) for name in _names(directory)},
    }
    files.write_text(directory / MARK, json.dumps(record, indent=1) + "\n")
    return record


def unmark(directory: Path) -> None:
    """Makes a folder, or says of an older one that it is not finished: before anything in it is written again."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MARK).unlink(missing_ok=True)


def check(directory: Path, *patterns: str) -> None:
    """Whether files are those that were there when the folder was finished.

    Nothing is asked of a folder without provenance, and of one that was written before hashes were.

    Args:
        directory: An artifact, or another folder that ``write`` has finished.
        patterns: Of file names, such as ``*.safetensors``.

    Raises:
        DlskipError: One is gone or is another, or the provenance is broken.
    """
    if not (directory / MARK).is_file():
        return
    written = files.read_json(directory / MARK, "run its stage again").get("sha256")
    for name, digest in written.items() if isinstance(written, dict) else ():
        path = directory / name
        if any(path.match(pattern) for pattern in patterns) and not (path.is_file() and files.sha256(path) == digest):
            raise DlskipError(
                f"not what its stage wrote, says {MARK} beside it",
                where=str(path),
                mend="run its stage again: dvc repro",
            )


def _names(directory: Path) -> list[str]:
    """The files of a folder; not those that another stage finished in a folder of its own inside."""
    inner = {path.parent for path in directory.rglob(MARK)} - {directory}
    found = (path for path in directory.rglob("*") if path.is_file() and path.name != MARK)
    return sorted(p.relative_to(directory).as_posix() for p in found if not inner.intersection(p.parents))


def device_name(device: str) -> str:
    """What ``cpu`` or ``cuda`` is here: the accelerator's name, or the processor's."""
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu ({_cpu()})"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak_memory_mb(device: str) -> int:
    """The most memory that this process has had, in MiB: of the accelerator, or on a CPU its own."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
