"""The methods' names, for people and for params.yaml. Imports nothing heavy: the report needs no model.

A method is a file ``dlskip/methods/<name>.py`` with ``METHOD`` and, as a constant, its ``TITLE``. Titles are read
without importing the file.
"""

from __future__ import annotations

import ast
from pathlib import Path

from dlskip.methods.settings import LENDERS, borrowed

TABLE1 = ["vanilla", "skip_decode", "static", "pretrain_static", "ours"]  # the paper's table 1
UNSKIPPED = ("vanilla", "vanilla_long")  # methods that run every layer
OWN_WEIGHTS = ("pretrain_static", "vanilla_long")  # methods that are nothing without the weights that they train
_FIRST = [*UNSKIPPED, *TABLE1[1:4], "unified", "early_exit", "shortgpt", "ours", "random"]  # the order of the tables


def titles(folder: Path) -> dict[str, str]:
    """The title of every method that has a file in a folder, by name."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.Assign(targets=[ast.Name(id="TITLE")], value=ast.Constant(value=str(text))):
                    found[path.stem] = text
    return {name: found[name] for name in (*(n for n in _FIRST if n in found), *(n for n in found if n not in _FIRST))}


TITLES = titles(Path(__file__).parent)
# What a variant may not be called: rows, folders and files of something else have these names.
RESERVED = frozenset(
    {"adapter_init", "skip_pretrain", "rl", "mixer", *(p.stem for p in Path(__file__).parent.glob("*.py"))}
)


def title(method: str) -> str:
    """A method's name for people; an ablation has its own."""
    if found := borrowed(method):
        return f"{title(found[0])}, on the weights of {LENDERS[found[1]]}"
    return TITLES.get(method, method.replace("_", " "))


def baselines() -> list[str]:
    """What ``grid.baselines`` may name: the methods that have no stage of their own."""
    return [name for name in TITLES if name not in ("vanilla", "ours", "random")]


def borrowed_names() -> list[str]:
    """What ``grid.borrowed`` may name: methods whose layers do not depend on training, on others' weights."""
    return [f"{name}_on_{weights}" for name in baselines() if name not in OWN_WEIGHTS for weights in LENDERS]
