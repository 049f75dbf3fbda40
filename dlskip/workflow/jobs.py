"""Runs the pipeline with several DVC stages at a time, as far as cores and memory allow.

Each stage is a ``dvc repro`` of its own, which decides whether there is anything to do, and which lends out DVC's lock
only while its command runs: no entry of dvc.lock is lost. ``dlskip.workflow.graph`` says who goes next.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
from tqdm.auto import tqdm

from dlskip.errors import DlskipError
from dlskip.workflow.graph import DVC, Graph, Schedule, read_graph, up_to_date
from dlskip.workflow.machine import cores, default_jobs, may_warm, share_of
from dlskip.workflow.plan import Plan, get_ready, make_plan
from dlskip.workflow.progress import Progress, log_of, said
from dlskip.workflow.warm import is_warm, warm

PAUSES = (1, 2, 5, 10, 20, 40, 60)  # seconds before another try, when another DVC process uses a stage's files
BUSY = re.compile(r"^ERROR: .*(Unable to acquire lock|it is being blocked by)", re.MULTILINE)
FIRST = ("backbone", "prepare")  # run before the plan, whose trials need what they make, and would make it too
GRACE = 15.0  # seconds for commands to end after Ctrl-C


class Runner:
    """Runs the stages of a graph that are not ``fresh``, at most ``jobs`` at a time, each in a thread that waits.

    ``python``: the folder of the one that stages are started with, if it is not PATH's.
    """

    def __init__(
        self, graph: Graph, fresh: Sequence[str], jobs: int, alone: tuple[str, ...], plan: Plan | None = None,
        python: Path | None = None,
    ) -> None:  # fmt: skip
        self.graph, self.jobs, self.cores = graph, jobs, cores()
        self.schedule = Schedule(graph, jobs, alone, plan.seconds if plan else None)
        self.path = os.pathsep.join([*([str(python)] if python else []), os.environ["PATH"]])
        self.progress = Progress(len(graph), plan)
        for name in fresh:
            self.schedule.done(name)
        self.done, self.failed, self.began = list(fresh), list[str](), time.monotonic()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.signals: list[float] = []  # when they came
        self.hit: set[tuple[psutil.Process, int]] = set()  # by which

    def run(self) -> None:
        """Runs all. Raises ``DlskipError`` if a stage failed, ``KeyboardInterrupt`` if a signal said to stop."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            ignored = signal.getsignal(number) is signal.SIG_IGN  # as under nohup; children must not inherit that
            signal.signal(number, (lambda *_: None) if ignored else self._signal)
        fresh, free, running = len(self.done), set(range(self.jobs)), dict[str, tuple[int, float, Future[bool]]]()
        with self.progress.bar, ThreadPoolExecutor(self.jobs) as pool:
            while running or (self.schedule and not self.failed and not self.signals):
                while not self.failed and not self.signals and (name := self.schedule.choose(running)):
                    slot = free.pop()
                    running[name] = slot, time.monotonic(), pool.submit(self._reproduce, name, slot)
                time.sleep(0.1)
                if self.signals:
                    self._end_commands(running)
                for name in [name for name, (*_, future) in running.items() if future.done()]:
                    slot, began, future = running.pop(name)
                    free.add(slot)
                    if future.result():
                        self.done.append(name)
                        self.schedule.done(name)
                        self.progress.ended(name, time.monotonic() - began)
                    else:
                        self.failed.append(name)
                self.progress.show(
                    self.done, {name: time.monotonic() - since for name, (_, since, _) in running.items()}
                )
        if self.signals:
            raise KeyboardInterrupt
        if self.failed:
            raise self._failure()
        self._say(f"{len(self.graph) - fresh} stages ran, {fresh} were up to date")

    def _reproduce(self, name: str, slot: int) -> bool:
        """Runs a stage to its end, and again while another DVC process uses its files; says whether it went well."""
        own, env, began = self.cores, os.environ | {"PATH": self.path}, time.monotonic()
        if name not in self.schedule.whole:
            env["OMP_NUM_THREADS"] = str(max(1, len(own) // self.jobs))
            own = share_of(own, slot, self.jobs)
        if sys.platform == "linux":
            os.sched_setaffinity(0, own)  # of this thread; what it starts inherits it
        self._say(f"start   {name}")
        for pause in (*PAUSES, None):
            log_of(name).parent.mkdir(exist_ok=True)
            with log_of(name).open("wb") as log:
                process = self.processes[name] = subprocess.Popen(
                    [*DVC, "repro", "-s", name], env=env, start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                )  # fmt: skip
            good, took = process.wait() == 0, f"{name}  {tqdm.format_interval(time.monotonic() - began)}"
            if good or pause is None or self.signals or not BUSY.search(said(name)):
                break
            self._say(f"waits   {took}: another DVC process uses its files")
            until = time.monotonic() + pause
            while time.monotonic() < until and not self.signals:
                time.sleep(0.1)
        self._say(f"{'done   ' if good else 'stopped' if self.signals else 'FAILED '} {took}")
        return good

    def _say(self, text: str) -> None:
        with tqdm.external_write_mode():
            print(f"{tqdm.format_interval(time.monotonic() - self.began):>8}  {text}", flush=True)

    def _signal(self, *_: object) -> None:
        self.signals.append(time.monotonic())

    def _end_commands(self, running: Iterable[str]) -> None:
        """Ends the commands, after which DVC gives up by itself. It is let be, since it may be writing dvc.lock.

        A second signal, or ``GRACE``, kills the commands; a third one DVC too.
        """
        late = len(self.signals) > 1 or time.monotonic() - self.signals[0] > GRACE
        number = signal.SIGKILL if late else signal.SIGINT
        for process in (self.processes[name] for name in running if name in self.processes):
            with suppress(psutil.NoSuchProcess):
                for command in psutil.Process(process.pid).children(recursive=True):
                    if (command, number) not in self.hit:
                        self.hit.add((command, number))
                        command.send_signal(number)
            if len(self.signals) > 2:
                process.kill()

    def _failure(self) -> DlskipError:
        for name in self.failed:
            lines = [line.rsplit("\r", 1)[-1] for line in said(name).rstrip().split("\n")[-20:]]
            print(f"\n{log_of(name)} ends:", *lines, sep="\n  ", flush=True)
        left = len(self.graph) - len(self.done) - len(self.failed)
        mend = "see above, then run the same command again: finished stages are kept"
        if any(re.search(r"exited with (-9|137)\b", said(name)) for name in self.failed):
            mend = "it was killed, mostly for want of memory: run the same command again with fewer jobs"
        where = ", ".join(self.failed)
        return DlskipError(f"failed; {left} of {len(self.graph)} stages did not run", where=where, mend=mend)


def _plan(graph: Graph, fresh: Sequence[str], jobs: int | None, alone: tuple[str, ...]) -> Plan | None:
    """The plan, said in one sentence; None if it cannot be made, for the stage itself will say why."""
    print("trying out what the stages take (a minute) ...", flush=True)
    try:
        plan = make_plan(graph, fresh, jobs, alone)
    except Exception as error:
        print(f"no estimate of time and memory: {error}", flush=True)
        return None
    print(plan.summary(), flush=True)
    return plan


def run_stages(
    targets: list[str], jobs: int | None = None, alone: tuple[str, ...] = ("speed",), *, planned: bool = True
) -> None:
    """Runs what is out of date.

    Args:
        targets: Stages, run with what they need; without any, all of dvc.yaml.
        jobs: Stages at a time; None: as many as are good for this machine. With 1 this process becomes ``dvc repro``.
        alone: How the names begin of stages that nothing may run beside.
        planned: Whether to estimate what it takes, once the backbone and the rows are made.

    Raises:
        DlskipError: A stage failed, or there is none of a target's name.
        SystemExit: Ctrl-C, or a signal, said to stop.
    """
    at_once = jobs or default_jobs()
    if at_once == 1 and not planned:
        os.execv(sys.executable, [*DVC, "repro", *targets])
    try:
        graph = read_graph(targets)
        fresh = up_to_date(graph)
        stale = len(fresh) < len(graph)
        with warm() if stale and may_warm() and not is_warm() else nullcontext() as python:
            if planned and (first := {name for name in graph if name.startswith(FIRST)}.difference(fresh)):
                get_ready()
                Runner({n: graph[n] & first for n in graph if n in first}, [], at_once, alone, python=python).run()
                fresh = up_to_date(graph)
            plan = _plan(graph, fresh, jobs, alone) if planned and stale else None
            at_once = plan.jobs if plan else at_once
            if at_once > 1:
                Runner(graph, fresh, at_once, alone, plan, python).run()
        if at_once == 1:
            os.execv(sys.executable, [*DVC, "repro", *targets])
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the checkpoints")
