"""The pipeline of tiny models, run once for all tests and all their workers; each test file gets a copy of its own."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlskip.workflow.warm import warm
from tests.helpers import shared
from tests.helpers.scratch import Scratch, make, repro


@pytest.fixture(scope="session")
def warm_python() -> Iterator[Path]:
    with warm() as folder:
        yield folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> tuple[Scratch, str]:
    """The run, which no test may change, and what its stages said."""
    here = shared.folder(tmp_path_factory, "pipeline")
    root, log = here / "dlskip", here / "log"
    with (here / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if log.exists():  # another worker was first
            return Scratch(root, warm_python), log.read_text(encoding="utf-8")
        shutil.rmtree(root, ignore_errors=True)
        scratch = make(root, warm_python)
        said = repro(scratch)
        untracked = scratch.git_status()
        assert untracked.split() == ["??", "dvc.lock", "??", "reports/"], untracked
        scratch.commit()
        log.write_text(said, encoding="utf-8")
    return scratch, said


@pytest.fixture(scope="module")
def scratch(finished: tuple[Scratch, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
    """A copy of the finished run."""
    copied = finished[0].copied(tmp_path_factory.mktemp("workflow") / "dlskip")
    yield copied
    shutil.rmtree(copied.root, ignore_errors=True)
