"""Killed at any moment, stopped or run twice at once: the same command, run again, ends with the same bytes."""

from __future__ import annotations

import random
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.torture.conftest import OUTS, STAGES, TALLY, Trials, content
from tests.torture.fork import Fault, run, stage, start

TRAINED = ("finetune", "adapter_init", "skip_pretrain", "rl", "mixer", "train_baselines")
OTHERS = ("backbone", "prepare", "baselines", "evaluate", "results")
EVENTS: dict[str, int] = {}  # how many changes of files an undisturbed run has


def a_fault(rng: random.Random, name: str, folder: Path, hows: tuple[Any, ...]) -> Fault:
    """At an event or after some time of an undisturbed run."""
    if TALLY is None:
        EVENTS[name] = 25  # a run that counts them takes as long as a try
    elif name not in EVENTS:
        EVENTS[name] = run(stage(name, **STAGES[name]), folder).events
    how = rng.choice(hows)
    if how != "torn" and rng.random() < 0.3:
        return Fault(how=how, after=rng.uniform(0.01, 2.0))
    return Fault(event=rng.randint(1, EVENTS[name]), how=how)


def packed(archive: Path) -> dict[str, bytes]:
    """The files in an archive of results."""
    with tarfile.open(archive) as tar:
        return {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry)) is not None}


def again_is_equal(name: str, folder: Path, done: Path) -> str:
    """What differs when the stage is run again; empty if nothing does."""
    ended = run(stage(name, **STAGES[name]), folder)
    if ended.code:
        return f"run again it says {ended.said[-1500:]}"
    here, there = content(folder / OUTS[name]), content(done / OUTS[name])
    if name == "results":
        here, there = (packed(x / "reports/runs.tar.xz") for x in (folder, done))
    left = [str(p.relative_to(folder)) for p in (folder / ".resume").glob("*")]
    return " ".join([*(k for k in here.keys() | there.keys() if here.get(k) != there.get(k)), *left])


@pytest.mark.parametrize("names", [TRAINED, OTHERS], ids=["training", "others"])
def test_killed_and_run_again(names: tuple[str, ...], done: Path, fresh: Callable[[], Path]) -> None:
    kind = "a training stage is killed" if names is TRAINED else "another stage is killed"
    tries = Trials(kind, 0.24 if names is TRAINED else 0.14, 1)
    for rng in tries:
        name, folder = names[(tries.tried + (TRAINED.index("rl"))) % len(names)], fresh()
        shutil.rmtree(folder / OUTS[name], ignore_errors=True) if names is TRAINED else None
        faults = [a_fault(rng, name, folder, (signal.SIGKILL, "torn")) for _ in range(rng.randint(1, 2))]
        for fault in faults:
            run(stage(name, **STAGES[name]), folder, fault)
        differing = again_is_equal(name, folder, done)
        tries.hold(not differing, f"{name} {faults}: {differing}")
    assert not tries.failed()


@pytest.mark.exhaustive("where it is seen whole: test_what_a_killed_removal_leaves_is_no_checkpoint")
def test_killed_within_the_removal_of_its_checkpoint(done: Path, fresh: Callable[[], Path]) -> None:
    tries = Trials("killed while a finished checkpoint is removed", 0.06, 1)
    for rng in tries:
        folder = fresh()
        fault = a_fault(rng, "finetune", folder, (signal.SIGKILL,))
        fault = Fault(event=max(1, EVENTS["finetune"] - rng.randint(0, 9)))
        run(stage("finetune", **STAGES["finetune"]), folder, fault)
        differing = again_is_equal("finetune", folder, done)
        tries.hold(not differing, f"{fault}: {differing}")
    assert not tries.failed()


@pytest.mark.exhaustive("another signal: test_killed_and_run_again")
def test_stopped_by_the_user(done: Path, fresh: Callable[[], Path]) -> None:
    tries = Trials("Ctrl-C and SIGTERM", 0.08, 1)
    for rng in tries:
        name, folder = rng.choice(TRAINED + OTHERS), fresh()
        fault = a_fault(rng, name, folder, (signal.SIGINT, signal.SIGTERM))
        ended = run(stage(name, **STAGES[name]), folder, fault)
        good = ended.one_message if fault.how == signal.SIGINT else ended.code == -signal.SIGTERM
        tries.hold(good or ended.code == 0, f"{name} {fault}: {ended.code} {ended.said[-800:]}")
        differing = again_is_equal(name, folder, done)
        tries.hold(not differing, f"{name} {fault}: {differing}")
    assert not tries.failed()


def test_two_at_once(done: Path, fresh: Callable[[], Path]) -> None:
    tries = Trials("two processes on one cell", 0.06, 1)
    for rng in tries:
        name, folder = rng.choice(TRAINED + OTHERS), fresh()
        waits = [start(stage(name, **STAGES[name]), folder) for _ in range(2)]
        ends = [wait() for wait in waits]
        told = [e for e in ends if e.code]
        good = all("already running, process" in e.said and e.one_message for e in told) and len(told) < 2
        tries.hold(good, f"{name}: {[(e.code, e.said[-500:]) for e in ends]}")
        differing = again_is_equal(name, folder, done)
        tries.hold(not differing, f"{name}: {differing}")
    assert not tries.failed()
