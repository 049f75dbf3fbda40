"""Runs the pipeline with several DVC stages at a time: on a CPU two, as far as cores and memory allow; else one.

Stages that measure time start last, one by one, when nothing else runs, with all cores. Every other stage has its share
of the cores (on Linux its own ones), or all of them where only evaluations could run beside it; these then wait. The
longest chain goes first. ``dlskip pipeline run --help`` says what a user should know.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dlskip.errors import DlskipError

# DVC lends out its repository lock only while a stage's command runs, and reads and rewrites dvc.lock under it: no
# entry is lost. But who finds the lock taken for three seconds gives up, and loses what its command has just made.
REPRO = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro"]
PAUSES = (1, 2, 5, 10, 20, 40, 60)  # seconds before another try, when another DVC process uses a stage's files
MEMORY = 8 * 2**30  # bytes per job that the default number of jobs asks for
PERCENT = re.compile(r"(\d+)%\|")  # of a progress bar
BUSY = re.compile(r"^ERROR: .*(Unable to acquire lock|it is being blocked by)", re.MULTILINE)
GRACE = 15.0  # seconds for stages to end after Ctrl-C


@dataclass(eq=False)
class Task:
    """A stage, where it stands in the graph, and its process once it has one."""

    name: str
    needs: set[str]  # directly
    fresh: bool = False  # nothing is out of date
    alone: bool = False  # nothing may run beside it
    whole: bool = False  # it has all cores
    below: set[str] = field(default_factory=set)  # whatever needs it, directly or not
    height: int = 0  # stages that must follow, one after the other
    tries: int = 0
    due: float = 0.0
    slot: int = 0
    began: float = 0.0
    process: subprocess.Popen[bytes] = field(init=False, repr=False)

    @property
    def log(self) -> Path:
        return Path(".jobs", re.sub(r"[^\w.@=-]", "_", self.name) + ".log")

    def said(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(encoding="utf-8", errors="replace"))

    def progress(self) -> str:
        """Its name, and how far the progress bar is that it showed last."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 400))
            shown = PERCENT.findall(log.read().decode("utf-8", errors="replace"))
        return f"{self.name} {shown[-1]} %" if shown else self.name


def read_plan(repo: Any, targets: list[str]) -> dict[str, Task]:
    """The stages that ``dvc repro TARGETS`` would look at, each after all that it needs."""
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    tasks: dict[str, Task] = {}
    with repo.lock:
        graph = get_active_graph(repo.index.graph)
        for stage in plan_repro(graph, collect_stages(repo, targets or ["dvc.yaml"])):
            needs = {need.addressing for need in graph.successors(stage)}
            fresh = all(tasks[name].fresh for name in needs) and not stage.changed()
            tasks[stage.addressing] = Task(stage.addressing, needs, fresh)
    return tasks


def arrange(tasks: dict[str, Task], alone: tuple[str, ...] = ()) -> dict[str, Task]:
    """Fills in what follows from the edges of a plan."""
    for task in reversed(tasks.values()):
        task.alone = task.name.startswith(alone)
        for need in (tasks[name] for name in task.needs):
            need.below |= {task.name} | task.below
            need.height = max(need.height, task.height + 1)
    for task in tasks.values():  # by the graph and not by the moment: the number of threads is part of a result
        least = 2 if task.height > 1 else 0
        others = (t for t in tasks.values() if t is not task and not t.alone and t.height >= least)
        task.whole = task.alone or all(t.name in task.below or task.name in t.below for t in others)
    return tasks


def default_jobs() -> int:
    """Two on a CPU with the cores and the memory for it, where stages of one thread each get more done; else one."""
    import torch

    from dlskip import config

    device = config.load_params().device if config.PARAMS.is_file() else "auto"
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return 2 if len(cores()) >= 2 and memory >= 2 * MEMORY else 1


def cores() -> list[int]:
    """The cores that we may use, the hyperthreads of one core side by side."""

    def first_sibling(core: int) -> int:
        path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        return int(re.split("[,-]", path.read_text())[0]) if path.is_file() else core

    usable = os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)
    return sorted(usable, key=lambda core: (first_sibling(core), core))


class Runner:
    """Runs the stages of a plan, at most ``jobs`` at a time; ``lock`` is DVC's."""

    def __init__(self, tasks: dict[str, Task], jobs: int, lock: Any) -> None:
        self.tasks, self.jobs, self.lock, self.cores = tasks, jobs, lock, cores()
        self.free, self.began, self.signals = set(range(jobs)), time.monotonic(), 0
        self.waiting = [task for task in tasks.values() if not task.fresh]
        self.done = {task.name for task in tasks.values() if task.fresh}
        self.running: list[Task] = []
        self.failed: list[Task] = []

    def run(self) -> None:
        """Runs all. Raises ``DlskipError`` if a stage failed, ``KeyboardInterrupt`` if a signal said to stop."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            ignored = signal.getsignal(number) is signal.SIG_IGN  # as under nohup; children must not inherit that
            signal.signal(number, (lambda *_: None) if ignored else self._signal)
        with tqdm(total=len(self.tasks), desc="stages", disable=None, leave=False) as bar:
            try:
                while self.running or (self.waiting and not self.failed):
                    while task := self.choose():
                        self._start(task)
                    time.sleep(0.1)
                    if self.signals:
                        raise KeyboardInterrupt
                    for task in [task for task in self.running if task.process.poll() is not None]:
                        self._end(task)
                    bar.update(len(self.done) - bar.n)
                    bar.set_postfix_str(", ".join(task.progress() for task in self.running), refresh=False)
            finally:
                self._stop()
        if self.failed:
            raise self._failure()
        ran = sum(not task.fresh for task in self.tasks.values())
        self._say(f"{ran} stages ran, {len(self.tasks) - ran} were up to date")

    def choose(self) -> Task | None:
        """The stage to start now, if any: the longest chain first, those of --alone when nothing else can."""
        if self.failed or not self.free or any(task.whole for task in self.running):
            return None
        ready = [task for task in self.waiting if task.needs <= self.done]
        ready = [task for task in ready if not task.alone] or ([] if self.running else ready)
        due = [task for task in ready if task.due <= time.monotonic()]
        return min(due, key=lambda task: (-task.height, -len(task.below), task.name), default=None)

    def _start(self, task: Task) -> None:
        task.slot, task.began, own, env = self.free.pop(), time.monotonic(), self.cores, dict(os.environ)
        if not task.whole:
            env["OMP_NUM_THREADS"] = str(max(1, len(own) // self.jobs))
            if len(own) >= self.jobs:
                own = own[task.slot * len(own) // self.jobs : (task.slot + 1) * len(own) // self.jobs]
        pin = getattr(os, "sched_setaffinity", lambda *_: None)  # children inherit it
        task.log.parent.mkdir(exist_ok=True)
        with task.log.open("wb") as log:
            pin(0, own)
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            task.process = subprocess.Popen([*REPRO, "-s", task.name], env=env, start_new_session=True, **streams)
            pin(0, self.cores)
        self.waiting.remove(task)
        self.running.append(task)
        self._say(f"start   {task.name}")

    def _end(self, task: Task) -> None:
        self.running.remove(task)
        self.free.add(task.slot)
        took = f"{task.name}  {tqdm.format_interval(time.monotonic() - task.began)}"
        if task.process.returncode == 0:
            self.done.add(task.name)
            self._say(f"done    {took}")
        elif task.tries < len(PAUSES) and BUSY.search(task.said()):
            task.due, task.tries = time.monotonic() + PAUSES[task.tries], task.tries + 1
            self.waiting.append(task)
            self._say(f"waits   {took}: another DVC process uses its files")
        else:
            self.failed.append(task)
            self._say(f"FAILED  {took}")

    def _say(self, text: str) -> None:
        with tqdm.external_write_mode():
            print(f"{tqdm.format_interval(time.monotonic() - self.began):>8}  {text}", flush=True)

    def _signal(self, *_: Any) -> None:
        self.signals += 1  # the first is seen to between two steps; a further one cuts a wait of `_stop` short
        if self.signals > 1:
            raise KeyboardInterrupt

    def _stop(self) -> None:
        """Ends what runs. Whoever has DVC's lock may be writing dvc.lock, so we take it before we hit anybody."""
        for number in (signal.SIGINT, signal.SIGKILL) if self.running else ():
            with suppress(KeyboardInterrupt):
                self.lock.lock()
            for task in self.running:
                with suppress(ProcessLookupError):
                    os.killpg(task.process.pid, number)
            if self.lock.is_locked:
                self.lock.unlock()
            with suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
                end = time.monotonic() + GRACE
                for task in self.running:
                    task.process.wait(max(0.0, end - time.monotonic()))

    def _failure(self) -> DlskipError:
        for task in self.failed:
            lines = [line.rsplit("\r", 1)[-1] for line in task.said().rstrip().split("\n")[-20:]]
            print(f"\n{task.log} ends:", *lines, sep="\n  ", flush=True)
        left = len(self.tasks) - len(self.done) - len(self.failed)
        mend = "see above, then run the same command again: finished stages are kept"
        if any(re.search(r"exited with (-9|137)\b", task.said()) for task in self.failed):
            mend = "it was killed, mostly for want of memory: run the same command again with fewer jobs"
        where = ", ".join(task.name for task in self.failed)
        return DlskipError(f"failed; {left} of {len(self.tasks)} stages did not run", where=where, mend=mend)


def run_stages(targets: list[str], jobs: int, alone: tuple[str, ...] = ("speed",)) -> None:
    """Runs what is out of date.

    Args:
        targets: Stages, run with what they need; without any, all of dvc.yaml.
        jobs: Stages at a time; with 1 this process becomes ``dvc repro``.
        alone: How the names begin of stages that nothing may run beside.

    Raises:
        DlskipError: A stage failed, or there is none of a target's name.
        SystemExit: Ctrl-C, or a signal, said to stop.
    """
    if jobs == 1:
        os.execv(sys.executable, [*REPRO, *targets])
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(_wait_for_lock=True) as repo:
            Runner(arrange(read_plan(repo, targets), alone), jobs, repo.lock).run()
    except DvcException as error:
        raise DlskipError(str(error)) from error
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the checkpoints")
