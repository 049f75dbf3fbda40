"""What README shows is run: its Python, and the options of its command lines."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dlskip.commands import COMMANDS, main
from tests.helpers.published import publish

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
PLACE = "artifacts/ours/smollm2-0"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_three_lines_run(tmp_path: Path, skipping: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = (block for block in blocks("python") if "from_pretrained" in block)
    assert PLACE in shown
    exec(shown.replace(PLACE, str(publish(tmp_path, skipping).artifact)), {})
    assert capsys.readouterr().out.startswith("The aunt will repair the white house.\nGerman:")


def test_the_command_lines_name_commands_and_options_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("python -m dlskip ")]
    shown = [shlex.split(line, comments=True)[3:] for line in lines]
    assert {words[0] for words in shown} <= set(COMMANDS)
    for name, *words in shown:
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        text = capsys.readouterr().out
        assert all(word in text for word in words if word.startswith("--"))
