"""The table that `make torture` ends with: of each kind of fault how many were tried, and how many held.

python -m tests.torture.table FOLDER > reports/torture.md
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from dlskip.provenance import device_name


def table(folder: Path) -> str:
    """Markdown, from the counts that the tests wrote into a folder."""
    rows = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    tried, held = (sum(row[name] for row in rows.values()) for name in ("tried", "held"))
    lines = [f"| {kind} | {row['tried']} | {row['held']} |" for kind, row in rows.items()]
    return "\n".join([
        "# Torture", "",
        "Written by `make torture`: kills, refusals, damage, broken and hostile input, at random, on tiny models.",
        "`tests/torture` says what must hold: the same bytes once the command is run again, or one message.", "",
        "| fault | tried | held |", "|---|---|---|", *lines, f"| all | {tried} | {held} |", "",
        f"Commit {commit}, seed {os.environ.get('DLSKIP_TORTURE_SEED', '0')}, {device_name('cpu')}, "
        f"{len(os.sched_getaffinity(0))} cores, {os.environ.get('DLSKIP_TORTURE_SECONDS', '900')} seconds of tries for "
        f"each of two workers, {time.strftime('%Y-%m-%d', time.gmtime())}.", "",
    ])  # fmt: skip


if __name__ == "__main__":
    print(table(Path(sys.argv[1])), end="")
