"""Stages that are forked from a process with the libraries: the same to their caller as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dlskip.workflow.warm import warm

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="used on Linux alone")]

PROBE = """
import json, os, sys, time
loaded = "transformers" in sys.modules
import torch
print(json.dumps({
    "loaded": loaded, "argv": sys.argv[1:], "command": sys.orig_argv[1:], "folder": os.getcwd(), "pid": os.getpid(),
    "threads": torch.get_num_threads(), "cores": sorted(os.sched_getaffinity(0)), "mark": os.environ.get("MARK"),
}), flush=True)
if "sleep" in sys.argv:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(7)
sys.exit(sys.argv[1] if sys.argv[1:] and sys.argv[1] == "a message" else int("fail" in sys.argv) * 3)
"""


@pytest.fixture(scope="module")
def python() -> Iterator[Path]:
    with warm() as folder:
        until = time.monotonic() + 120
        while not (folder / "socket").exists():
            assert time.monotonic() < until, "nobody serves"
            time.sleep(0.1)
        yield folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "probe.py").write_text(PROBE)
    return tmp_path


def start(python: Path, here: Path, *arguments: str, **env: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(python), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        ["sh", "-c", 'python -m stages.probe "$@"', "sh", *arguments], cwd=here, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=os.environ | {"PATH": path} | env,
    )  # fmt: skip


def test_a_stage_has_what_its_call_has(python: Path, here: Path) -> None:
    own = sorted(os.sched_getaffinity(0))
    for threads in ({"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": ""}):
        process = start(python, here, "an argument", MARK="mine", **threads)
        out, error = process.communicate(timeout=60)
        said = json.loads(out)
        assert process.returncode == 0 and not error
        assert said["loaded"], "the libraries were there before it started"
        assert said["argv"] == ["an argument"] and said["folder"] == str(here) and said["mark"] == "mine"
        assert said["command"] == ["-m", "stages.probe", "an argument"], "as its provenance says it"
        assert said["cores"] == own and said["threads"] == int(threads["OMP_NUM_THREADS"] or len(own))


@pytest.mark.parametrize(("argument", "code"), [("fail", 3), ("a message", 1)])
def test_a_failure_is_handed_on(argument: str, code: int, python: Path, here: Path) -> None:
    process = start(python, here, argument)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code and error.strip() == (argument if code == 1 else "")


def test_a_stage_that_is_killed_looks_killed(python: Path, here: Path) -> None:
    process = start(python, here, "sleep")
    assert process.stdout is not None
    os.kill(json.loads(process.stdout.readline())["pid"], signal.SIGKILL)
    assert process.wait(60) == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_signals_to_the_call_reach_the_stage(number: signal.Signals, python: Path, here: Path) -> None:
    process = start(python, here, "sleep")
    assert process.stdout is not None
    stage = psutil.Process(json.loads(process.stdout.readline())["pid"])
    for call in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        call.send_signal(number)
    out, _ = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert out.strip() == "interrupted"
    stage.wait(60)


def test_before_anybody_serves_python_itself_runs_it(here: Path) -> None:
    with warm() as folder:
        out, _ = start(folder, here, "x").communicate(timeout=60)
        assert json.loads(out)["argv"] == ["x"]
    assert not folder.exists()
