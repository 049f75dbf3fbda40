"""What the machine refuses, and what is damaged: one message and a non-zero exit; once it is mended, the same bytes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture.conftest import CELL, OUTS, STAGES, Trials, content
from tests.torture.fork import REFUSALS, Fault, run, stage
from tests.torture.test_kills import OTHERS, TRAINED, a_fault, again_is_equal

READERS = {"rl": ["artifacts/skip_pretrain", "models", "data/prepared", "params.yaml"],
           "mixer": ["artifacts/rl", "models", "data/prepared"],
           "evaluate": ["artifacts/ours", "models", "data/prepared", "params.yaml"]}  # fmt: skip


def test_a_disk_that_refuses(done: Path, fresh: Callable[[], Path]) -> None:
    tries = Trials("a full disk, a quota, no permission, read-only", 0.1, 1)
    for rng in tries:
        name, folder = rng.choice(TRAINED + OTHERS), fresh()
        fault = a_fault(rng, name, folder, tuple(-number for number in REFUSALS))
        fault = Fault(limit=rng.randint(1, 4000)) if rng.random() < 0.3 or not fault.event else fault
        ended = run(stage(name, **STAGES[name]), folder, fault)
        tries.hold(ended.one_message or ended.code == 0, f"{name} {fault}: {ended.said[-1500:]}")
        differing = again_is_equal(name, folder, done)
        tries.hold(not differing, f"{name} {fault}: {differing}")
    assert not tries.failed()


@pytest.mark.exhaustive("an event that is refused with ENOTDIR, EEXIST: test_a_disk_that_refuses")
def test_something_else_of_that_name(done: Path, fresh: Callable[[], Path]) -> None:
    """A file where a folder should be, a folder for a file, a link to nothing, what only its owner may read."""
    tries = Trials("a file for a folder, a folder for a file, a link to nothing", 0.05, 1)
    for rng in tries:
        name, folder = rng.choice(TRAINED + OTHERS), fresh()
        path = rng.choice([p for p in folder.rglob("*") if ".resume" not in p.parts])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        kind = rng.choice(("file", "folder", "link", "nothing"))
        if kind == "file":
            path.write_bytes(rng.randbytes(20))
        elif kind == "folder":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(folder / "gone")
        ended = run(stage(name, **STAGES[name]), folder)
        same = ended.code == 0 and (
            content(folder / OUTS[name]) == content(done / OUTS[name]) or path.is_relative_to(folder / OUTS[name])
        )
        which = path.relative_to(folder)
        # What another stage wrote may be missing from an archive of results: that is said by the report.
        same = same or (name == "results" and ended.code == 0)
        tries.hold(ended.one_message or same, f"{name}, {kind} {which}: {ended.said[-1500:]}")
    assert not tries.failed()


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Bytes that are not those: flipped, cut, or of another kind."""
    flipped = bytearray(content or b"x")
    place = rng.randrange(len(flipped))
    flipped[place] ^= 1 << rng.randrange(8)
    return rng.choice([
        bytes(flipped), bytes(flipped), content[: len(content) // 2], b"", rng.randbytes(50), b"[" * 100_000, b"[]",
        b"null", b'{"a": 1}', "caf\xe9".encode("latin-1"), content.decode("latin-1").encode("utf-16"),
        b"\x80\x04\x95garbage.",
    ])  # fmt: skip


def test_damaged_inputs(done: Path, fresh: Callable[[], Path]) -> None:
    """Refused in one message, or without any consequence."""
    tries = Trials("damaged artifacts, backbones, rows and parameters", 0.1, 1)
    for rng in tries:
        name, folder = rng.choice(sorted(READERS)), fresh()
        place = folder / rng.choice(READERS[name])
        path = rng.choice(sorted(p for p in [place, *place.rglob("*")] if p.is_file()))
        path.write_bytes(damaged(rng, path.read_bytes()))
        ended = run(stage(name, **STAGES[name]), folder)
        same = ended.code == 0 and content(folder / OUTS[name]) == content(done / OUTS[name])
        tries.hold(ended.one_message or same, f"{name}, {path.relative_to(folder)}: {ended.code} {ended.said[-1500:]}")
    assert not tries.failed()


@pytest.mark.exhaustive("each file cut, gone or garbage: tests/training/test_train.py")
def test_a_damaged_checkpoint(done: Path, fresh: Callable[[], Path]) -> None:
    tries = Trials("damaged checkpoints of an interrupted run", 0.05, 1)
    before: Path | None = None
    for rng in tries:
        folder = fresh()
        if before is None:
            while not list((folder / ".resume").glob("*/state.json")):  # killed at a time when it has one
                events = run(stage("finetune", **CELL), fresh()).events
                run(stage("finetune", **CELL), folder, Fault(event=events * 2 // 3))
            before = Path(shutil.copytree(folder / ".resume", folder.parent / "checkpoints"))
        shutil.rmtree(folder / ".resume", ignore_errors=True)
        shutil.copytree(before, folder / ".resume")
        path = rng.choice(sorted(p for p in (folder / ".resume").glob("*/*") if p.suffix in (".json", ".safetensors")))
        path.write_bytes(damaged(rng, path.read_bytes()))
        ended = run(stage("finetune", **CELL), folder)
        same = ended.code == 0 and content(folder / OUTS["finetune"]) == content(done / OUTS["finetune"])
        tries.hold(ended.one_message or same, f"{path.name}: {ended.code} {ended.said[-1500:]}")
    assert not tries.failed()
