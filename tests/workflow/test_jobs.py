"""Several stages at a time: as plain `dvc repro`, only sooner; what happens when one fails, or when all are stopped.

The pipeline is a small one of its own, of stages that take a tenth of a second.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlskip.config import read_yaml
from dlskip.workflow.graph import Schedule
from dlskip.workflow.machine import cores

REPO = Path(__file__).resolve().parents[2]
JOBS = (sys.executable, "-m", "dlskip", "pipeline", "run")
MIDDLES = 14
PIPELINE = """\
stages:
  first: {cmd: PY first, deps: [work.py], outs: [out/first]}
  middle:
    matrix: {n: MIDDLES}
    cmd: PY middle${item.n} out/first
    deps: [out/first]
    outs: ["out/middle${item.n}"]
  chain: {cmd: PY chain out/middle0, deps: [out/middle0], outs: [out/chain]}
  link: {cmd: PY link out/chain, deps: [out/chain], outs: [out/link]}
  speed:
    matrix: {n: [1, 2]}
    cmd: PY speed${item.n} out/middle${item.n}
    deps: ["out/middle${item.n}"]
    outs: ["out/speed${item.n}"]
  last:
    cmd: PY last out/link out/speed1 out/speed2
    deps: [out/link, out/speed1, out/speed2]
    outs: [out/last]
"""
WORK = """\
import glob, json, os, sys, time
name, needs, began = sys.argv[1], sys.argv[2:], time.time()
os.makedirs("out", exist_ok=True)
os.makedirs("runs", exist_ok=True)
open(f"runs/{name}.pid", "w").write(str(os.getpid()))
while os.path.exists(f"hold-{name}"):  # until the test lets it go
    time.sleep(0.02)
while "MEET" in os.environ and name.startswith("middle") and len(glob.glob("runs/middle*.pid")) < 2:
    time.sleep(0.02)
if os.path.exists(f"break-{name}"):
    sys.exit(f"{name} is broken")
time.sleep(0.1)
open(f"out/{name}", "w").write(name + "".join(open(need).read() for need in needs))
where = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
line = [name, began, time.time(), os.environ.get("OMP_NUM_THREADS"), where]
open("runs/log", "a").write(json.dumps(line) + "\\n")
"""


def _attentive() -> None:
    """Hears Ctrl-C, even where the tests run in the background of a shell, which makes its jobs ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Project:
    """The small pipeline under git and DVC."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def start(self, *command: str, **env: str) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_"))}
        fixed = {"PYTHONPATH": str(REPO), "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(self.root.parent / "site")}
        return subprocess.Popen(
            command, cwd=self.root, env=kept | fixed | env, text=True, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_attentive,
        )  # fmt: skip

    def run(self, *command: str, code: int = 0, **env: str) -> str:
        process = self.start(*command, **env)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == code, said
        return said

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def jobs(self, *arguments: str, code: int = 0, **env: str) -> str:
        return self.run(*JOBS, *arguments, code=code, **env)

    def recorded(self) -> dict[str, Any]:
        return read_yaml(self.root / "dvc.lock")["stages"]

    def outputs(self) -> dict[str, list[str]]:
        """Lines without their order: that is how DVC's own out/.gitignore differs from run to run."""
        return {path.name: sorted(path.read_text().split()) for path in (self.root / "out").iterdir()}

    def ran(self) -> dict[str, tuple[float, float, str | None, list[int]]]:
        """Per command that ended: when it began and ended, its number of threads and its cores."""
        lines = [json.loads(line) for line in (self.root / "runs/log").read_text().splitlines()]
        assert len({name for name, *_ in lines}) == len(lines), "a command ran twice"
        return {name: tuple(rest) for name, *rest in lines}

    def hold(self, name: str) -> Path:
        path = self.root / f"hold-{name}"
        path.touch()
        return path

    @staticmethod
    def wait_for_line(process: subprocess.Popen[str], part: str) -> None:
        assert process.stdout is not None
        assert any(part in line for line in iter(process.stdout.readline, "")), f"never said {part!r}"

    def wait_for(self, path: str, process: subprocess.Popen[str]) -> str:
        deadline = time.monotonic() + 300
        while not (self.root / path).is_file() or not (self.root / path).read_text():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        return (self.root / path).read_text()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("jobs") / "template")
    project.root.mkdir()
    python = f"{sys.executable} -S -E work.py"
    text = PIPELINE.replace("PY", python).replace("MIDDLES", str(list(range(MIDDLES))))
    (project.root / "dvc.yaml").write_text(text)
    (project.root / "work.py").write_text(WORK)
    project.run("git", "init", "-q")
    project.dvc("init", "-q")
    return project


@pytest.fixture
def copy(template: Project, tmp_path: Path) -> Callable[[str], Project]:
    """Makes a fresh copy of the pipeline."""

    def make(name: str = "project") -> Project:
        return Project(Path(shutil.copytree(template.root, tmp_path / name)))

    return make


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def overlaps(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


@pytest.mark.slow
def test_as_plain_repro_but_at_the_same_time(copy):
    """Twenty short stages, four at a time: the stress that would lose entries of dvc.lock if any could be lost."""
    ours, plain = copy("ours"), copy("plain")
    said = ours.jobs("--jobs", "4", MEET="1", OMP_NUM_THREADS="7")
    plain.jobs("--jobs", "1")
    assert len(ours.recorded()) == MIDDLES + 6
    assert ours.recorded() == plain.recorded()
    assert ours.outputs() == plain.outputs()
    assert said.count("start ") == said.count("done ") == MIDDLES + 6

    ran = ours.ran()
    assert any(overlaps(ran[a], ran[b]) for a, b in itertools.combinations(ran, 2))
    for timed in ("speed1", "speed2"):
        assert not any(overlaps(ran[timed], ran[other]) for other in ran if other != timed)
        assert ran["link"][1] < ran[timed][0], "what is timed runs last"
    for name, (_, _, threads, where) in ran.items():
        whole = name in ("first", "speed1", "speed2")  # nothing could run beside these
        assert threads == ("7" if whole else str(max(1, len(cores()) // 4))), name
        share = len(cores()) // 4 if not whole and len(cores()) >= 4 else len(cores())
        assert not where or share <= len(where) <= share + 1, name

    before = ours.ran()
    assert "0 stages ran, 20 were up to date" in ours.jobs("--jobs", "4")
    assert "Running stage" not in ours.dvc("repro")
    assert ours.ran() == before


@pytest.mark.slow
def test_failure_names_the_stage_and_lets_the_others_finish(copy):
    project = copy()
    held, broken = project.hold("middle4"), project.root / "break-middle3"
    broken.touch()
    arguments = ("--jobs", "2", "middle@3", "middle@4", "middle@5")
    process = project.start(*JOBS, *arguments)
    project.wait_for_line(process, "FAILED  middle@3")
    held.unlink()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert ".jobs/middle@3.log ends:\n" in said and "\n  middle3 is broken\n" in said
    assert "error: middle@3: failed; 1 of 4 stages did not run\n  mend: " in said and "Traceback" not in said
    assert project.recorded().keys() == {"first", "middle@4"}

    broken.unlink()
    assert "2 stages ran, 2 were up to date" in project.jobs(*arguments)
    assert "Running stage" not in project.dvc("repro", "middle@3", "middle@4", "middle@5")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_leaves_no_process_and_goes_on(copy, number):
    project = copy()
    held = [project.hold(f"middle{n}") for n in (1, 2)]
    process = project.start(*JOBS, "--jobs", "2", "middle@1", "middle@2")
    stages = [int(project.wait_for(f"runs/middle{n}.pid", process)) for n in (1, 2)]
    process.send_signal(number)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and said.endswith("stopped; the same command goes on from the checkpoints\n"), said
    assert not any(alive(stage) for stage in stages)
    for path in held:
        path.unlink()
    said = project.dvc("repro", "middle@1", "middle@2")
    assert said.count("Running stage 'middle@") == 2 and "WARNING" not in said
    assert project.recorded().keys() == {"first", "middle@1", "middle@2"}


@pytest.mark.slow
def test_locks_of_others_are_waited_for(copy):
    """Another process has the repository lock for longer than DVC waits by itself, and then the files of a stage."""
    project = copy()
    held, rwlock = project.hold("first"), project.root / ".dvc/tmp/rwlock"
    process = project.start(*JOBS, "--jobs", "2", "middle@2")
    project.wait_for("runs/first.pid", process)
    with (project.root / ".dvc/tmp/lock").open("r+") as lock, subprocess.Popen(["sleep", "60"]) as other:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = json.loads(rwlock.read_text())
        entries["write"][str(project.root / "out/middle2")] = {"pid": other.pid, "cmd": "dvc repro"}
        rwlock.write_text(json.dumps(entries))
        held.unlink()
        time.sleep(4.5)
        fcntl.flock(lock, fcntl.LOCK_UN)
        project.wait_for_line(process, "waits   middle@2")
        other.kill()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert project.recorded().keys() == {"first", "middle@2"}
    assert list(project.ran()) == ["first", "middle2"]


def scheduled(edges: dict[str, str], jobs: int, alone: tuple[str, ...] = ()) -> Schedule:
    return Schedule({name: set(needs.split()) for name, needs in edges.items()}, jobs, alone)


def order(edges: dict[str, str], jobs: int, alone: tuple[str, ...] = ()) -> list[str]:
    """Names in the order in which they start, if all take equally long and the first that began ends first."""
    schedule, started, running = scheduled(edges, jobs, alone), [], []
    while schedule:
        while name := schedule.choose(running):
            running.append(name)
            started.append(name)
            assert len(running) == 1 or not schedule.alone.intersection(running)
        schedule.done(running.pop(0))
    return started


def test_longest_chain_first_and_what_is_timed_last():
    edges = {"a": "", "b": "", "c": "", "c1": "c", "speed@b": "b", "c2": "c1"}
    edges |= {"speed@c": "c2", "end": "speed@b"}
    assert order(edges, 1)[0] == "c"
    assert order(edges, 2, ("speed",)) == ["c", "b", "c1", "a", "c2", "speed@b", "end", "speed@c"]


def test_a_stage_has_all_cores_where_nothing_can_run_beside_it():
    edges = {"a": "", "b": "a", "c": "a", "speed": "b", "d": "b c", "e": "d"}
    assert scheduled(edges, 2, ("speed",)).whole == {"a", "speed", "d", "e"}
    assert scheduled(edges, 2).whole == {"a"}


def test_a_chain_beside_evaluations_alone_has_all_cores_and_they_wait():
    edges = {"a": "", "b": "a", "c": "b", "evaluate@a": "a", "evaluate@c": "c", "end": "evaluate@a evaluate@c"}
    assert scheduled(edges, 2).whole == {"a", "b", "c", "end"}
    assert order(edges, 2) == ["a", "b", "c", "evaluate@a", "evaluate@c", "end"]


@pytest.mark.slow
def test_help_and_mistakes(copy):
    project = copy()
    said = project.jobs("--help")
    assert "--together" in said and "measure" in said
    assert "must be a whole number of 1 or more" in project.jobs("--jobs", "0", code=2)
    said = project.jobs("--jobs", "2", "none", code=1)
    assert said.startswith("error: ") and "none" in said and "Traceback" not in said
