"""What this machine has: its cores, its GPU, and how many stages at a time that is good for."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import psutil

MEMORY = 8 * 2**30  # bytes per job that the default number of jobs asks for, on a CPU
CONTEXT = 2**30  # bytes of a GPU that a process takes beside its tensors
MOST = 4  # stages at a time on a GPU: with small models each waits mostly for its own launches
FREE = 0.9  # of a GPU's free memory, what stages may take


def on_gpu() -> bool:
    """Whether stages run on a CUDA device, by ``device`` in params.yaml."""
    import torch

    from dlskip import config

    device = config.load_params().device if config.PARAMS.is_file() else "auto"
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def may_warm() -> bool:
    """Whether stages may start warm: who has asked a GPU may not fork, and on a Mac nobody who has imported torch."""
    return sys.platform == "linux" and not on_gpu()


def default_jobs() -> int:
    """Two on a CPU with the cores and the memory for it, where stages of one thread each get more done; else one.

    On a GPU it depends on what stages need there: see ``jobs_that_fit``.
    """
    return 2 if not on_gpu() and len(cores()) >= 2 and psutil.virtual_memory().total >= 2 * MEMORY else 1


def jobs_that_fit(needed: float, free: float, cpus: int) -> int:
    """Stages at a time on a GPU: as many as its memory holds, with two cores for each, at most ``MOST``.

    Args:
        needed: Bytes at the peak of the stage that takes most.
        free: Bytes that the GPU has free.
        cpus: Cores that we may use.

    Examples:
        >>> jobs_that_fit(needed=3 * 2**30, free=78 * 2**30, cpus=16), jobs_that_fit(40 * 2**30, 78 * 2**30, 16)
        (4, 1)
    """
    return max(1, min(MOST, cpus // 2, int(FREE * free // (needed + CONTEXT))))


def gpu_memory() -> int:
    """Bytes that the GPU has free."""
    import torch

    return int(torch.cuda.mem_get_info()[0])


def cores() -> list[int]:
    """The cores that we may use, the hyperthreads of one core side by side."""

    def first_sibling(core: int) -> int:
        path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        return int(re.split("[,-]", path.read_text())[0]) if path.is_file() else core

    usable = os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)
    return sorted(usable, key=lambda core: (first_sibling(core), core))


def share_of(own: list[int], slot: int, jobs: int) -> list[int]:
    """Of the cores, those of one of several jobs: not the others', if there are enough."""
    return own[slot * len(own) // jobs : (slot + 1) * len(own) // jobs] if len(own) >= jobs else own
