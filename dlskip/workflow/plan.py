"""The plan of a run, before anything is trained: what every stage takes on this machine, and when all will be done."""

from __future__ import annotations

import hashlib
import heapq
import json
import multiprocessing
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tabulate import tabulate
from tqdm.auto import tqdm

from dlskip import __version__, config
from dlskip.config import Params
from dlskip.errors import DlskipError
from dlskip.workflow.estimate import Cost, Estimator, Key, Trial
from dlskip.workflow.graph import Graph, Schedule
from dlskip.workflow.machine import cores, default_jobs, gpu_memory, jobs_that_fit, may_warm, on_gpu, share_of

KEPT = Path(".jobs", "trials.json")
IMPORTS: Key = ("imports", "", "")  # what every stage begins with
DVC_TAKES = 0.35  # what DVC does around a stage, in units of its imports: both are mostly Python's own work
FIRST = {"backbone": Path("models"), "prepare": Path("data/prepared"), "start": Path("artifacts")}  # others need these
LONGEST = ("skip_pretrain", "mixer", "rl", "passes", "finetune")


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Args:
        graph: Its stages.
        costs: Of each; nothing for those that are up to date.
        fresh: Those that are up to date, each after what it needs.
        jobs: Stages at a time.
        alone: How the names begin of stages that nothing may run beside.
    """

    graph: Graph
    costs: Mapping[str, Cost]
    fresh: Sequence[str]
    jobs: int
    alone: tuple[str, ...]

    def simulate(self, seconds: Mapping[str, float], done: Sequence[str]) -> tuple[float, float]:
        """Seconds until all that is not ``done`` has run, each stage for so long, and the most MiB in use at a time."""
        schedule, now, most = Schedule(self.graph, self.jobs, self.alone, self.seconds), 0.0, 0.0
        for ended in done:
            schedule.done(ended)
        running: list[tuple[float, str]] = []
        while schedule:
            while (name := schedule.choose([name for _, name in running])) is not None:
                heapq.heappush(running, (now + seconds[name], name))
            most = max(most, sum(self.costs[name].memory for _, name in running))
            now, ended = heapq.heappop(running)
            schedule.done(ended)
        return now, most

    @property
    def seconds(self) -> dict[str, float]:
        """By stage."""
        return {name: cost.seconds for name, cost in self.costs.items()}

    def table(self) -> str:
        """A row for each stage of dvc.yaml, and the total."""
        rows: list[list[Any]] = []
        for stage in dict.fromkeys(name.partition("@")[0] for name in self.graph):
            names = [name for name in self.graph if name.partition("@")[0] == stage]
            stale = [self.costs[name] for name in names if name not in self.fresh]
            rows.append([
                stage, f"{len(stale)} of {len(names)}" if stale else "up to date", sum(c.seconds for c in stale) / 60,
                max((c.memory for c in stale), default=0) / 2**10, sum(c.disk for c in stale) / 2**20,
            ])  # fmt: skip
        seconds, memory = self.simulate(self.seconds, self.fresh)
        ran = f"{len(self.graph) - len(self.fresh)} of {len(self.graph)}"
        disk = sum(cost.disk for cost in self.costs.values())
        rows.append([f"all, {self.jobs} at a time", ran, seconds / 60, memory / 2**10, disk / 2**20])
        heads = ["stage", "to run", "minutes", "peak memory, GiB", "disk, MiB"]
        return str(tabulate(rows, heads, floatfmt=("", "", ".1f", ".1f", ".0f"), tablefmt="simple"))

    def summary(self) -> str:
        """The total in one sentence."""
        seconds, memory = self.simulate(self.seconds, self.fresh)
        disk = sum(cost.disk for cost in self.costs.values())
        return (
            f"{len(self.graph) - len(self.fresh)} of {len(self.graph)} stages to run, {self.jobs} at a time: about "
            f"{tqdm.format_interval(seconds)}, {memory / 2**10:.1f} GiB of memory, {disk / 2**20:.0f} MiB on disk"
        )


def make_plan(graph: Graph, fresh: Sequence[str], jobs: int | None, alone: tuple[str, ...]) -> Plan:
    """Tries out what the stages that are not ``fresh`` do, as far as it is not known, and reckons.

    Args:
        graph: The stages.
        fresh: Those that are up to date.
        jobs: Stages at a time; None: as many as are good for this machine.
        alone: How the names begin of stages that nothing may run beside.

    Raises:
        DlskipError: A stage's code does not run, or is killed for want of memory.
    """
    params, at_once = config.load_params(), jobs or default_jobs()
    estimator, whole = Estimator(params), Schedule(graph, at_once, alone).whole if at_once > 1 else set(graph)
    stale = [name for name in graph if name not in set(fresh)]
    keys = {key: name in whole for name in reversed(stale) for key in estimator.trials(name)}
    found = _known(params, at_once)
    if lacking := {key: alone for key, alone in keys.items() if key not in found}:
        found |= try_out(lacking, params, at_once)
        KEPT.write_text(json.dumps({"of": _identity(params, at_once), "trials": [
            [key, asdict(trial)] for key, trial in found.items()
        ]}), encoding="utf-8")  # fmt: skip
    overhead = (DVC_TAKES + (not may_warm())) * found.get(IMPORTS, Trial()).seconds
    costs = {name: estimator.cost(name, found, overhead) for name in stale}
    if jobs is None and on_gpu():
        at_once = jobs_that_fit(max((c.memory for c in costs.values()), default=0) * 2**20, gpu_memory(), len(cores()))
    return Plan(graph, {name: costs.get(name, Cost()) for name in graph}, fresh, at_once, alone)


def get_ready() -> ForkServerContext:
    """Starts what trials are forks of, which imports libraries for some seconds: early, so that nobody waits for it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dlskip.workflow.trial"])
    forkserver.ensure_running()
    return context


def try_out(keys: Mapping[Key, bool], params: Params, jobs: int) -> dict[Key, Trial]:
    """Runs trials, ``jobs`` at a time.

    Args:
        keys: The trials, and whether each has all cores to itself.
        params: All parameters.
        jobs: How many at a time, each on its share of the cores.

    Raises:
        DlskipError: A stage's code does not run, or is killed for want of memory.
    """
    KEPT.parent.mkdir(exist_ok=True)
    found: dict[Key, Trial] = {}
    with (
        TemporaryDirectory(dir=KEPT.parent, prefix="trial-") as folder,
        ProcessPoolExecutor(jobs, get_ready(), max_tasks_per_child=1) as processes,
        ThreadPoolExecutor(jobs) as lanes,
        tqdm(total=len(keys), desc="trying out", disable=None, leave=False) as bar,
    ):
        scratch = Path(folder).resolve()
        found[IMPORTS] = processes.submit(_imports).result()

        def lane(waiting: list[Key], mine: Sequence[int]) -> None:
            while waiting:
                key = waiting.pop(0)
                found[key] = processes.submit(_try, key, params.model_dump(), scratch, mine).result()
                bar.update()

        try:
            lane([*_first(keys, scratch), *(k for k, alone in keys.items() if alone and k[0] not in FIRST)], cores())
            rest = [key for key, alone in keys.items() if not alone and key[0] not in FIRST]
            rest.sort(key=lambda key: LONGEST.index(key[0]) if key[0] in LONGEST else len(LONGEST))
            for ended in [lanes.submit(lane, rest, share_of(cores(), slot, jobs)) for slot in range(jobs)]:
                ended.result()
        except BrokenProcessPool as error:
            raise DlskipError("killed, mostly for want of memory", where="a trial of few steps") from error
    return found


def _try(key: Key, data: dict[str, Any], scratch: Path, mine: Sequence[int]) -> Trial:
    from dlskip.workflow import trial  # takes seconds, so not here but where trials run

    return trial.run(*key, config.validate(data), scratch, mine)


def _imports() -> Trial:
    from dlskip.workflow import trial

    return Trial(trial.IMPORTED)


def _first(keys: Collection[Key], scratch: Path) -> list[Key]:
    """What must be made in the scratch folder; what is there and up to date is linked."""
    needed: list[Key] = []
    for backbone in dict.fromkeys(key[2] for key in keys):
        for kind, folder in FIRST.items():
            part = Path(folder, backbone if kind == "backbone" else "")
            if (kind, "", backbone) in keys or kind == "start" or not part.is_dir():
                needed.append((kind, "", backbone))
            elif not (scratch / part).is_symlink():
                (scratch / part).parent.mkdir(parents=True, exist_ok=True)
                (scratch / part).symlink_to(part.resolve())
    return sorted(needed, key=lambda key: list(FIRST).index(key[0]))


def _identity(params: Params, jobs: int) -> str:
    """What trials depend on."""
    text = json.dumps([params.model_dump(mode="json"), jobs, cores(), __version__])
    return hashlib.sha256(text.encode()).hexdigest()


def _known(params: Params, jobs: int) -> dict[Key, Trial]:
    """Trials of an earlier plan of the same parameters."""
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    if kept.get("of") != _identity(params, jobs):
        return {}
    return {(kind, item, name): Trial(**trial) for (kind, item, name), trial in kept["trials"]}
