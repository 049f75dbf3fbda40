"""What this machine has: its cores, and how many stages at a time that is good for."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import psutil

MEMORY = 8 * 2**30  # bytes per job that the default number of jobs asks for


def default_jobs() -> int:
    """Two on a CPU with the cores and the memory for it, where stages of one thread each get more done; else one."""
    import torch

    from dlskip import config

    device = config.load_params().device if config.PARAMS.is_file() else "auto"
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        return 1
    return 2 if len(cores()) >= 2 and psutil.virtual_memory().total >= 2 * MEMORY else 1


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
