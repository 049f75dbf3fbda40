"""A copy of the repository under git and DVC, with the recipe `smoke` applied, in which the pipeline runs."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
ENV = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1", "PYTHONUNBUFFERED": "1"}


def ran(log: str) -> list[str]:
    """Names of the stages that DVC ran, in order."""
    return re.findall(r"Running stage '([^']+)'", log)


@dataclass
class Scratch:
    """The copy at ``root``; ``warm`` is a folder whose ``python`` starts stages quickly (dlskip.workflow.warm)."""

    root: Path
    warm: Path | None = None

    def start(self, *command: str, cold: bool = False) -> subprocess.Popen[str]:
        """Starts a command; ``cold``: its stages are processes of their own."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_"))}
        first = [] if cold or self.warm is None else [str(self.warm)]
        path = os.pathsep.join([*first, str(Path(sys.executable).parent), kept["PATH"]])
        return subprocess.Popen(
            command, cwd=self.root, env=kept | ENV | {"PATH": path}, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        )  # fmt: skip

    def run(self, *command: str, ok: bool = True, cold: bool = False) -> str:
        """Runs a command and returns all that it said."""
        process = self.start(*command, cold=cold)
        out, _ = process.communicate(timeout=600)
        assert (process.returncode == 0) == ok, out
        return out

    def dvc(self, *arguments: str, ok: bool = True, cold: bool = False) -> str:
        return self.run("dvc", *arguments, ok=ok, cold=cold)

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "state")

    def git_status(self) -> str:
        return self.run("git", "status", "--short")

    def stages(self) -> list[str]:
        return self.dvc("stage", "list", "--name-only").split()

    def hashes(self, folder: str) -> dict[str, str]:
        files = (p for p in sorted((self.root / folder).rglob("*")) if p.is_file())
        return {str(p.relative_to(self.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    def replace(self, old: str, new: str) -> None:
        """Edits params.yaml."""
        path = self.root / "params.yaml"
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in params.yaml"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def copied(self, root: Path) -> Scratch:
        """A copy of the copy, with all results; links between its files stay links."""
        subprocess.run(["cp", "-a", str(self.root), str(root)], check=True)
        return Scratch(root, self.warm)


def make(root: Path, warm: Path | None, *changes: str) -> Scratch:
    """Copies the tracked and the new files, applies the recipe with some changes, and commits; runs nothing."""
    scratch = Scratch(root, warm)
    listed = subprocess.run(
        ["git", "ls-files", "-zco", "--exclude-standard"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        skip = name.startswith(("reports/", "dvc.lock")) or not (REPO / name).is_file()
        if not skip:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, root / name)
    scratch.run("git", "init", "-q")
    scratch.run("git", "config", "user.name", "test")
    scratch.run("git", "config", "user.email", "test@localhost")
    scratch.run("python", "-m", "dlskip", "pipeline", "recipe", "smoke", *changes)
    scratch.commit()
    return scratch


def repro(scratch: Scratch, *, cold: bool = False) -> str:
    """As `make repro` runs it without its plan; shows what that says, and returns what the stages said."""
    process = scratch.start("python", "-m", "dlskip", "pipeline", "run", "--jobs", "2", "--no-plan", cold=cold)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        print(line, end="", flush=True)
    assert process.wait() == 0, "".join(lines)
    return "".join(path.read_text(encoding="utf-8") for path in sorted((scratch.root / ".jobs").iterdir()))
