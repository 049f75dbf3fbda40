"""The texts are true: paths, links and commands exist, the paper is named, the README is short, the notebook runs."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from ruamel.yaml import YAML

from dlskip.commands import COMMANDS
from dlskip.config import read_yaml, validate
from tests.helpers.default import PARAMS

PAGES = [Path(n) for n in ("README.md", "FAITHFULNESS.md", "CONTRIBUTING.md", *sorted(Path("docs").rglob("*.md")))]
TITLE = (
    "Dynamic layer skipping for large language models on natural language understanding tasks and machine translation "
    "using reinforcement learning"
)


def texts() -> list[tuple[Path, str]]:
    return [(page, page.read_text(encoding="utf-8")) for page in PAGES]


def test_links_lead_somewhere() -> None:
    for page, text in texts():
        for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
            assert "://" in target or (page.parent / target).exists(), f"{page}: {target}"


def test_files_that_are_named_exist() -> None:
    for page, text in texts():
        for name in re.findall(r"`((?:dlskip|stages|tests|recipes|reports|docs)/[\w./-]+\.\w+)`", text):
            assert Path(name).exists(), f"{page}: {name}"


def test_commands_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page, text in texts():
        for command in re.findall(r"^(?:\$ )?dlskip ([a-z]+)", text, re.MULTILINE):
            assert command in COMMANDS, f"{page}: dlskip {command}"
        for target in re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE):
            assert target in targets, f"{page}: make {target}"
        for module in re.findall(r"python -m (dlskip[\w.]*|stages\.\w+)", text):
            assert importlib.util.find_spec(module), f"{page}: python -m {module}"


@pytest.mark.parametrize("name", ["README.md", "FAITHFULNESS.md", "CITATION.cff", "docs/method.md"])
def test_the_paper_is_named(name: str) -> None:
    assert TITLE.lower() in " ".join(Path(name).read_text(encoding="utf-8").split()).lower()


def test_the_readme_has_at_most_900_words() -> None:
    text = Path("README.md").read_text(encoding="utf-8")
    generated = re.sub(r"<!-- (\w+):begin.*?<!-- \1:end -->|```.*?```", "", text, flags=re.DOTALL)
    assert len(generated.split()) <= 900


def test_the_api_pages_name_modules_that_exist() -> None:
    named = [n for page in Path("docs/api").glob("*.md") for n in re.findall(r"^::: ([\w.]+)", page.read_text(), re.M)]
    assert named and not [name for name in named if importlib.util.find_spec(name) is None]


def test_the_pipeline_page_has_every_stage() -> None:
    rows = re.findall(r"^\| (`.*?) \| ", Path("docs/pipeline.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w.-]+)`", row)]
    stages = list(read_yaml(Path("dvc.yaml"))["stages"])
    recipes = ["embedded", *(path.stem for path in Path("recipes").glob("*.yaml"))]
    assert sorted(named) == sorted([*stages, *recipes])


def test_parameters_that_are_shown_are_valid() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", Path("docs/data.md").read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    for shown in examples:
        params, changes = read_yaml(PARAMS), YAML(typ="safe", pure=True).load(shown)
        for section, values in changes.items():
            params[section] |= values
        valid = validate(params).model_dump()
        assert all(valid[section].keys() >= values.keys() for section, values in changes.items())


def test_the_log_is_numbered_without_a_gap() -> None:
    """Markdown counts by itself: after a gap, a page would show other numbers than those that texts refer to."""
    numbers = re.findall(r"^(\d+)\. ", Path("reports/log.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, len(numbers) + 1))


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    space: dict[str, object] = {}
    for cell in json.loads(Path("docs/notebooks/layers.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), space)
    shares = space["shares"]
    assert isinstance(shares, list) and shares[0] > 0 == shares[-1]
    assert "identical: True" in capsys.readouterr().out
