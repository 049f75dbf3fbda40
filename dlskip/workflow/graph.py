"""The graph of the stages, as DVC's command line tells it, and in which order several at a time go through it.

Stages that measure time go last, one by one, when nothing else runs, with all cores. Every other stage has its share of
the cores, or all of them where only evaluations could run beside it; these then wait. The longest chain goes first.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter

from dlskip.errors import DlskipError

Graph = dict[str, set[str]]  # from a stage to what it needs, directly
DVC = [sys.executable, "-m", "dvc", "--wait-for-lock"]


def ask(*arguments: str) -> str:
    """What DVC answers.

    Raises:
        DlskipError: It cannot, with what it says.
    """
    done = subprocess.run([*DVC, *arguments], capture_output=True, check=False, text=True, encoding="utf-8")
    if done.returncode:
        said = re.findall(r"^ERROR: (.+)", done.stderr, re.MULTILINE) or [done.stderr.strip()]
        if "dvc.lock" in done.stderr:  # empty or cut: DVC was killed while it wrote it
            raise DlskipError(said[-1], where="dvc.lock", mend="git checkout dvc.lock")
        raise DlskipError(said[-1], where="dvc.yaml")
    return done.stdout


def read_graph(targets: Collection[str] = ()) -> Graph:
    """The stages that ``dvc repro TARGETS`` would look at; without targets all.

    Raises:
        DlskipError: DVC cannot read them, or there is none of a target's name.
    """
    said = ask("dag", "--dot")
    graph: Graph = {name: set() for name in re.findall(r'^"([^"]+)";$', said, re.MULTILINE)}
    for need, name in re.findall(r'^"([^"]+)" -> "([^"]+)";$', said, re.MULTILINE):
        graph[name].add(need)
    wanted = set[str]()
    for target in targets or graph:
        found = {name for name in graph if target in (name, name.partition("@")[0])}
        if not found:
            raise DlskipError(f"no stage {target!r}", where="dvc.yaml", mend="dvc stage list")
        wanted |= found
    for name in reversed(list(TopologicalSorter(graph).static_order())):
        wanted |= graph[name] if name in wanted else set()
    return {name: graph[name] for name in graph if name in wanted}


def up_to_date(graph: Graph) -> list[str]:
    """The stages that have nothing to do, each after what it needs. What comes after a stale one may have to run."""
    changed, fresh = json.loads(ask("status", "--json")), list[str]()
    for name in TopologicalSorter(graph).static_order():
        if name not in changed and graph[name].issubset(fresh):
            fresh.append(name)
    return fresh


class Schedule:
    """Which stage starts next.

    Args:
        graph: All stages, those too that are up to date: by the graph and not by the moment it is said who has all
            cores, since the number of threads is part of a result.
        jobs: Stages at a time.
        alone: How the names begin of stages that nothing may run beside.
        seconds: What each takes, by which the longest chain is found; None: all the same.
    """

    def __init__(
        self, graph: Graph, jobs: int, alone: tuple[str, ...] = (), seconds: Mapping[str, float] | None = None
    ) -> None:
        self.jobs = jobs
        self.below: Graph = {name: set() for name in graph}  # whatever needs it, directly or not
        self.height = dict.fromkeys(graph, 0)  # stages that must follow, one after the other
        self.chain = {name: 1.0 if seconds is None else seconds[name] for name in graph}  # with all that must follow
        own = dict(self.chain)
        for name in reversed(list(TopologicalSorter(graph).static_order())):
            for need in graph[name]:
                self.chain[need] = max(self.chain[need], own[need] + self.chain[name])
                self.below[need] |= {name} | self.below[name]
                self.height[need] = max(self.height[need], self.height[name] + 1)
        self.alone = {name for name in graph if name.startswith(alone)}
        self.whole = {name for name in graph if name in self.alone or not self._beside(name)}
        self._sorter = TopologicalSorter(graph)
        self._sorter.prepare()
        self._ready = set(self._sorter.get_ready())

    def _beside(self, name: str) -> bool:
        """Whether another stage could run beside this one that is worth sharing the cores with."""
        least = 2 if self.height[name] > 1 else 0
        others = (n for n in self.height if n not in self.alone and self.height[n] >= least and n != name)
        return any(other not in self.below[name] and name not in self.below[other] for other in others)

    def __bool__(self) -> bool:
        """Whether stages are left."""
        return self._sorter.is_active()

    def choose(self, running: Collection[str]) -> str | None:
        """The stage to start beside those that run, if any: of the longest chain; those alone when no other can."""
        if len(running) >= self.jobs or not self.whole.isdisjoint(running):
            return None
        ready = self._ready.difference(running)
        if not (others := ready - self.alone) and running:
            return None
        return min(others or ready, key=lambda name: (-self.chain[name], -len(self.below[name]), name), default=None)

    def done(self, name: str) -> None:
        """A stage has ended well, or is up to date; all that it needs has."""
        self._ready.discard(name)
        self._sorter.done(name)
        self._ready |= set(self._sorter.get_ready())
