"""The workflow's lists against the code: each stage's `deps` and `params`.

Nothing is run. From a stage's script, every module that it imports is walked: those that change numbers must be the
stage's dependencies. From its ``main``, every function, class and constant that it can reach: what they read of
``params`` must be its parameters.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dlskip.config import Params, read_yaml
from dlskip.methods import names
from dlskip.methods.ablation import STEPS

REPO = Path(__file__).resolve().parents[2]
STAGES = read_yaml(REPO / "dvc.yaml")["stages"]
Name = tuple[str, str]  # (module, top-level name in it)
# Code around what is computed, no dependency of any stage: none of it can change a number.
PLUMBING = {
    "dlskip.errors": "what a message says",
    "dlskip.files": "how files are written, locked and known again",
    "dlskip.checks": "refuses weights that are not whole; computes nothing",
    "dlskip.provenance": "what is written down about a run",
    "dlskip.config": "types and ranges of params.yaml, whose values are tracked as `params`",
    "dlskip.workflow": "how a script reads its arguments; the tools around the stages",
    "dlskip.methods.registry": "finds a method by its name",
    "dlskip.methods.baselines": "likewise",
}
# What ${item.method} may be. `borrowed` lists the files of all methods that it may name.
METHODS = {
    "baselines": names.baselines(), "train_baselines": ["static", "pretrain_static"],
    "train_once": ["pretrain_static", "vanilla_long"],
    "borrowed": [name for name in names.baselines() if name not in names.OWN_WEIGHTS],
}  # fmt: skip
# Modules that are looked up by name. `evaluate` looks methods up too, but a plan holds its code's hash.
LOOKED_UP = {stage: [f"dlskip.methods.{name}" for name in listed] for stage, listed in METHODS.items()}
# What a method reads elsewhere than in that stage: a model is trained for one share, not for those of the plan.
LENGTHS = {f"{stage}.train" for stage in ("finetune", "adapter_init", "skip_pretrain", "rl", "mixer")}
NOT_READ = {"train_baselines": {"evaluate.shares"}, "baselines": {*LENGTHS, "skip_pretrain.init"}}
LOOKED_UP |= {f"ablations_{step}": [f"dlskip.steps.{module}"] for step, module in STEPS.items()}


@cache
def path_of(module: str) -> Path | None:
    """Our own module's file; None if it is not ours."""
    base = REPO.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@cache
def tree_of(module: str) -> ast.Module:
    path = path_of(module)
    assert path is not None
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(module: str) -> dict[str, Name]:
    """Local name -> (module, name in it, or "" for the module itself), of our own modules only."""
    found = {}
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and node.module and path_of(node.module):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                target = (inner, "") if path_of(inner) else (node.module, alias.name)
                found[alias.asname or alias.name] = target
        elif isinstance(node, ast.Import):
            assert not any(path_of(a.name) for a in node.names), f"{module}: write `from dlskip import ...`"
    return found


def modules_of(stage: str) -> set[Path]:
    """Files of all modules that a stage imports, directly or not, less plumbing and packages that say nothing."""
    todo, seen = [script_of(stage), *LOOKED_UP.get(stage, [])], set()
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            if not within(module, "dlskip.config"):  # which checks all parameters and computes nothing
                todo += [target for target, _ in imports(module).values()]
            todo += [module.rpartition(".")[0]] if "." in module else []
    # The package `stages` itself only has what a stage prints made quiet, before its libraries are imported.
    return {p for m in seen - {"stages"} if (p := path_of(m)) and not is_bare(p) and not is_plumbing(m)}


def is_plumbing(module: str) -> bool:
    return any(within(module, name) for name in PLUMBING)


def script_of(stage: str) -> str:
    """The module that a stage runs; the steps of an ablation share one."""
    (module,) = (word for word in STAGES[stage]["cmd"].split() if word.startswith("stages."))
    return module


@cache
def is_bare(path: Path) -> bool:
    """A package's file with nothing but its docstring, its version, and names that it looks up when asked for."""

    def says_nothing(node: ast.stmt) -> bool:
        if isinstance(node, ast.ImportFrom):
            return node.module in sys.stdlib_module_names
        if isinstance(node, ast.Import):
            return all(name.name in sys.stdlib_module_names for name in node.names)
        if isinstance(node, ast.FunctionDef):
            return node.name in ("__getattr__", "__dir__")
        return isinstance(node, ast.Expr | ast.Assign)

    body = ast.parse(path.read_text(encoding="utf-8")).body
    return path.name == "__init__.py" and all(map(says_nothing, body))


@cache
def definitions(module: str) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in tree_of(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id: node for t in targets if isinstance(t, ast.Name)}
    return found


def resolve(module: str, name: str) -> Name | None:
    """Where a name that a module uses is defined, through re-exports."""
    while name not in definitions(module):
        if name not in imports(module):
            return None
        module, name = imports(module)[name]
        if not name:
            return None
    return module, name


def reachable(stage: str) -> Iterator[ast.stmt]:
    """Every definition that a stage's `main` can get at."""
    todo: list[Name] = [(script_of(stage), "main")]
    for module in LOOKED_UP.get(stage, []):
        todo.append((module, stage.removeprefix("ablations_") if "steps" in module else "METHOD"))
    seen: set[Name] = set()
    while todo:
        here = todo.pop()
        if here in seen or here[0].startswith("dlskip.config"):  # which checks all parameters and uses none
            continue
        seen.add(here)
        module, name = here
        yield definitions(module)[name]
        for node in ast.walk(definitions(module)[name]):
            if isinstance(node, ast.Name):
                todo += [found] if (found := resolve(module, node.id)) else []
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                target, inner = imports(module).get(node.value.id, ("", "x"))
                todo += [found] if not inner and (found := resolve(target, node.attr)) else []


def chain(node: ast.AST) -> list[str]:
    """``a.b.c`` as its names, from the left."""
    if isinstance(node, ast.Attribute):
        return [*chain(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else ["?"]


def reads_of(stage: str) -> set[str]:
    """Dotted parameters read: the longest attribute chains on anything that is called ``params``."""
    found = set()
    for definition in reachable(stage):
        inner = {id(n.value) for n in ast.walk(definition) if isinstance(n, ast.Attribute)}
        for node in ast.walk(definition):
            names = chain(node) if isinstance(node, ast.Attribute) and id(node) not in inner else []
            if "params" in names and (path := names[names.index("params") + 1 :]) and path[0] in Params.model_fields:
                found.add(".".join(path))
    return found


def within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_modules_that_the_stage_imports(stage):
    written = [d for d in STAGES[stage]["deps"] if d.startswith(("dlskip", "stages"))]
    listed = {REPO / d.replace("${item.method}", name) for d in written for name in METHODS.get(stage, [""])}
    assert all(path.exists() for path in listed)
    used = modules_of(stage)
    lacking = [str(p.relative_to(REPO)) for p in sorted(used) if not any(p.is_relative_to(path) for path in listed)]
    vain = [str(path.relative_to(REPO)) for path in listed if not any(p.is_relative_to(path) for p in used)]
    assert not lacking and not vain, f"deps of {stage} lack {lacking} and list in vain {vain}"


def test_plumbing_is_a_dependency_of_no_stage():
    """So that a message in dlskip/errors.py may be reworded, and nothing is trained again."""
    listed = {dep for stage in STAGES.values() for dep in stage["deps"] if dep.startswith("dlskip")}
    for module, why in PLUMBING.items():
        path = path_of(module)
        assert path is not None and why
        path = path.parent if path.name == "__init__.py" else path
        assert not [d for d in listed if path.is_relative_to(REPO / d) or (REPO / d).is_relative_to(path)], module


@pytest.mark.parametrize("stage", ["mixer", "rl", "skip_pretrain"])
def test_a_step_s_own_file_concerns_its_own_stages_alone(stage):
    """Editing dlskip/steps/mixer.py trains mixer again, ours and the ablations', and nothing before it."""
    file = f"dlskip/steps/{STEPS[stage]}.py"
    found = {name for name, listed in STAGES.items() if file in listed["deps"]}
    assert found == {stage, f"ablations_{stage}"} | ({"mixer", "ablations_mixer"} if stage == "rl" else set())


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_what_the_stage_reads(stage):
    listed = {re.sub(r"\.\$\{item\.\w+\}$", "", str(p)) for p in STAGES[stage]["params"]}
    reads = reads_of(stage) - NOT_READ.get(stage, set())
    lacking = {r for r in reads if not any(within(r, p) for p in listed)}
    vain = {p for p in listed if not any(within(r, p) for r in reads)}
    assert not lacking and not vain, f"params of {stage} lack {sorted(lacking)} and list in vain {sorted(vain)}"


def test_the_walk_finds_what_is_known_to_be_there():
    assert {"rl", "device", "model.tune", "prepare.nlu", "backbones"} <= reads_of("mixer")
    assert not any(within(r, "ablations") for r in reads_of("rl")), "one module, two stages"
    assert "evaluate.thresholds" in reads_of("figures")
    assert REPO / "dlskip" / "skip" / "cache.py" in modules_of("evaluate")
