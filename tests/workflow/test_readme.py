"""What README shows is run: its Python. Its commands and links: tests/test_docs.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.published import publish

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
PLACE = "smollm2-135m"  # the model that comes with dlskip; a tiny one stands for it


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_three_lines_run(tmp_path: Path, skipping: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = (block for block in blocks("python") if "from_pretrained" in block)
    assert PLACE in shown
    exec(shown.replace(PLACE, str(publish(tmp_path, skipping).artifact)), {})
    assert capsys.readouterr().out.startswith("Die Tante wird das weiße Haus reparieren.\nEnglish:")
