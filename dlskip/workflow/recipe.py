"""Recipes: small override files applied onto the default parameters.

``recipes/embedded.yaml`` is the default params.yaml itself (a test holds the two equal), so applying ``embedded``
always brings the default back; every other recipe lists only the keys that differ from it.

    python -m dlskip.workflow.recipe glue prepare.path=/data/nlp
"""

from __future__ import annotations

import argparse
import sys
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.error import YAMLError

from dlskip import config
from dlskip.errors import DlskipError

RECIPES = Path("recipes")
DEFAULT = "embedded"
_NULL = "tag:yaml.org,2002:null"


def names(directory: Path = RECIPES) -> list[str]:
    """The recipes there are."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def render(name: str, overrides: dict[str, Any] | None = None, directory: Path = RECIPES) -> str:
    """The text of params.yaml under a recipe; the default's comments are kept.

    Args:
        name: Recipe.
        overrides: Dotted keys and their values, applied last.
        directory: Where recipes lie.

    Raises:
        DlskipError: Unknown recipe, or an invalid result (unknown keys included).
    """
    path = directory / f"{name}.yaml"
    if not path.is_file():
        raise DlskipError(f"no recipe {name!r}", where=str(directory), mend=f"one of {', '.join(names(directory))}")
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 4096, True  # no line is folded, as in the default
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(_NULL, "null"))
    text = (directory / f"{DEFAULT}.yaml").read_text(encoding="utf-8")
    params = yaml.load(text)
    if name != DEFAULT:
        _merge(params, config.read_yaml(path))
        params["recipe"] = name
    for dotted, value in (overrides or {}).items():
        nested: Any = value
        for part in reversed(dotted.split(".")):
            nested = {part: nested}
        _merge(params, nested, replace=False)
    config.validate(YAML(typ="safe", pure=True).load(_dump(yaml, params)), f"recipe {name}")
    return text if name == DEFAULT and not overrides else _dump(yaml, params)


def _dump(yaml: YAML, params: Any) -> str:
    buffer = StringIO()
    yaml.dump(params, buffer)
    return buffer.getvalue()


_OPEN = {("backbones",), ("ablations", "variants")}  # mappings whose keys are the user's; a recipe replaces them whole


def _merge(base: Any, changes: dict[str, Any], path: tuple[str, ...] = (), *, replace: bool = True) -> None:
    for key, value in changes.items():
        here = (*path, key)
        whole = replace and here in _OPEN
        if isinstance(value, dict) and isinstance(base.get(key), dict) and not whole:
            _merge(base[key], value, here, replace=replace)
        else:
            base[key] = _flow(value) if isinstance(value, list) else value


def _flow(items: list[Any]) -> CommentedSeq:
    """A list written on one line, as the default's are."""
    sequence = CommentedSeq(items)
    sequence.fa.set_flow_style()
    return sequence


def _pair(text: str) -> tuple[str, Any]:
    key, value = text.split("=", 1)
    if not all(key.split(".")):
        raise ValueError(text)
    return key, YAML(typ="safe", pure=True).load(value)


def main() -> None:
    """Command line: applies a recipe onto params.yaml."""
    parser = argparse.ArgumentParser(prog="dlskip pipeline recipe", description="Apply a recipe onto params.yaml.")
    parser.add_argument("name", help=f"one of: {', '.join(names())}")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="further changes, e.g. prepare.path=/data/nlp"
    )
    options = parser.parse_args()
    try:
        values = dict(map(_pair, options.overrides))
    except (ValueError, YAMLError):
        parser.error("changes are written key=value, the value in YAML")
    try:
        config.PARAMS.write_text(render(options.name, values), encoding="utf-8")
    except DlskipError as error:
        sys.exit(f"error: {error}")
    print(f"params.yaml now holds the recipe {options.name!r}. Next: make repro")


if __name__ == "__main__":
    main()
