"""Turns what the workflow trained into a folder to publish or to keep: adapters, controllers, LoRA, configuration and a
model card, without the backbone. `dlskip.from_pretrained(folder)` loads it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from dlskip.commands import share
from dlskip.errors import DlskipError


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("artifact", type=Path, help="what the workflow trained, e.g. artifacts/ours/smollm2-0")
    parser.add_argument("folder", type=Path, help="to write")
    parser.add_argument("--backbone", help="folder or hub id of the base model (default: what it was trained on)")
    parser.add_argument("--threshold", type=share, help="to be stored (default: 0.5)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of adapters and LoRA (default: as trained)")
    parser.add_argument("--about", type=Path, help="Markdown for the model card: what it was trained on")


def run(options: Namespace) -> None:
    """Runs it."""
    import dlskip
    from dlskip.hub.release import check_folder

    check_folder(options.folder)
    if options.about and not options.about.is_file():
        raise DlskipError("no such file", where=str(options.about))
    about = options.about.read_text(encoding="utf-8").strip() if options.about else None
    dlskip.release(
        options.artifact, options.folder, backbone=options.backbone, threshold=options.threshold, dtype=options.dtype,
        about=about,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    print(f"written: {options.folder}, {size / 1e6:.1f} MB")
