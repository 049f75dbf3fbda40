"""The command line: help for every stage and target, mistakes on one line, bugs with their traceback."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import pytest

from dlskip.config import read_yaml
from dlskip.errors import DlskipError
from dlskip.workflow import script as cli

REPO = Path(__file__).resolve().parents[2]
STAGES = read_yaml(REPO / "dvc.yaml")["stages"]


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_explains_itself(name, monkeypatch, capsys):
    script = STAGES[name]["cmd"].split()[2]
    monkeypatch.setattr("sys.argv", [script, "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    said = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"Stage {script.removeprefix('stages.')}: " in said and "params.yaml" in said
    for option in re.findall(r"--(\w+)", STAGES[name]["cmd"]):
        assert re.search(rf"--{option} \S+\s+\w+", said), f"--{option} is not explained"


def run(monkeypatch: pytest.MonkeyPatch, main: object, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["stage", *arguments])
    cli.stage(main, "seed")  # type: ignore[arg-type]


def test_mistakes_are_one_message(monkeypatch):
    def main(seed: int) -> None:
        raise DlskipError("is broken", where=f"seed {seed}", mend="another seed")

    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, main, "--seed", "3")
    assert caught.value.code == "error: seed 3: is broken\n  mend: another seed"  # printed, and exit status 1


def test_what_the_machine_refuses_is_a_message_and_other_errors_are_not_hidden(monkeypatch):
    def full(**_: int) -> None:
        raise OSError(28, "No space left on device", "out.bin")

    def refused(**_: int) -> None:
        raise OSError(13, "Permission denied", "out.bin")

    def bug(**_: int) -> None:
        raise ValueError("out.bin")

    with pytest.raises(SystemExit, match=r"error: out\.bin: No space left on device\n  mend: "):
        run(monkeypatch, full, "--seed", "0")
    with pytest.raises(SystemExit, match=r"error: out\.bin: Permission denied"):
        run(monkeypatch, refused, "--seed", "0")
    with pytest.raises(ValueError, match=r"out\.bin"):
        run(monkeypatch, bug, "--seed", "0")


def test_make_help_lists_every_target():
    said = subprocess.run(["make", "help"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    assert {"repro", "test", "smoke", "recipe"} <= set(targets)
    assert [t for t in targets if not re.search(rf"^  make {t} +\S", said, re.MULTILINE)] == []
