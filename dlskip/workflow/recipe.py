"""Recipes: small override files applied onto the default parameters.

The default is params.yaml itself, as long as it says ``recipe: embedded``; a recipe lists only the keys that differ
from it, or from the recipe that it is ``on``. When another recipe is applied, the default is put aside in
params.default.yaml, with all that was changed in it by hand, and ``embedded`` brings it back.

    dlskip pipeline recipe glue prepare.path=/data/nlp
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from dlskip import config
from dlskip.errors import DlskipError

RECIPES = Path("recipes")
DEFAULT = "embedded"  # the recipe that params.yaml is when it lies in the repository
ASIDE = Path("params.default.yaml")  # that file, while params.yaml holds another recipe; not under git
_NULL = "tag:yaml.org,2002:null"


def names(directory: Path = RECIPES) -> list[str]:
    """The recipes there are."""
    return sorted([DEFAULT, *(path.stem for path in directory.glob("*.yaml"))])


def apply(name: str, overrides: dict[str, Any], *, force: bool = False) -> None:
    """Writes a recipe into params.yaml.

    Args:
        name: Recipe.
        overrides: Dotted keys and their values, applied last.
        force: Drop what was changed by hand under the recipe that params.yaml holds now.

    Raises:
        DlskipError: Unknown recipe, an invalid result, or changes that would be lost.
    """
    now = config.read_yaml(config.PARAMS)
    at_default = now.get("recipe") == DEFAULT
    if not at_default and not ASIDE.is_file():
        raise DlskipError(f"holds recipe {now.get('recipe')!r}, and the default is not in {ASIDE}",
                          where=str(config.PARAMS), mend="git checkout params.yaml, then apply the recipe")  # fmt: skip
    text = (config.PARAMS if at_default else ASIDE).read_text(encoding="utf-8")
    made = render(name, text, overrides)
    if not at_default and not force:
        _nothing_is_lost(now, YAML(typ="safe", pure=True).load(render(str(now["recipe"]), text)))
    if name != DEFAULT:
        ASIDE.write_text(text, encoding="utf-8")
    config.PARAMS.write_text(made, encoding="utf-8")
    if name == DEFAULT:
        ASIDE.unlink(missing_ok=True)


def _nothing_is_lost(now: dict[str, Any], as_applied: dict[str, Any]) -> None:
    if changed := sorted(differences(now, as_applied)):
        raise DlskipError(
            f"has changes that recipe {now['recipe']!r} does not make: {', '.join(changed)}",
            where=str(config.PARAMS), mend="keep them in a recipe of your own, or drop them with --force (FORCE=1)",
        )  # fmt: skip


def differences(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Dotted keys at which two mappings differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from differences(a.get(key), b.get(key), f"{path}.{key}" if path else str(key))
    elif a != b:
        yield path


def render(name: str, default: str, overrides: dict[str, Any] | None = None, directory: Path = RECIPES) -> str:
    """The text of params.yaml under a recipe; the default's comments are kept.

    Args:
        name: Recipe.
        default: The text of the default params.yaml.
        overrides: Dotted keys and their values, applied last.
        directory: Where recipes lie.

    Raises:
        DlskipError: Unknown recipe, or an invalid result (unknown keys included).
    """
    changes = _changes([name], directory)
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 4096, True  # no line is folded, as in the default
    yaml.representer.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(_NULL, "null"))
    params = yaml.load(default)
    for one in changes:
        _merge(params, one)
    params["recipe"] = name if changes else params["recipe"]
    for dotted, value in (overrides or {}).items():
        nested: Any = value
        for part in reversed(dotted.split(".")):
            nested = {part: nested}
        _merge(params, nested, replace=False)
    config.validate(YAML(typ="safe", pure=True).load(_dump(yaml, params)), f"recipe {name}")
    return default if name == DEFAULT and not overrides else _dump(yaml, params)


def _changes(chain: Sequence[str], directory: Path) -> list[dict[str, Any]]:
    """What the last recipe of a chain changes: first that of the recipe that it is ``on``, if it names one."""
    name = chain[-1]
    if name == DEFAULT:
        return []
    path = directory / f"{name}.yaml"
    if not path.is_file():
        raise DlskipError(f"no recipe {name!r}", where=str(directory), mend=f"one of {', '.join(names(directory))}")
    own = config.read_yaml(path)
    below = own.pop("on", DEFAULT)
    if below in chain:
        raise DlskipError("is on itself", where=str(path), mend="name another recipe, or leave `on` out")
    return [*_changes([*chain, below], directory), own]


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


def pair(text: str) -> tuple[str, Any]:
    """``key=value``, the value in YAML.

    Raises:
        ValueError, YAMLError: It is not that.
    """
    key, value = text.split("=", 1)
    if not all(key.split(".")):
        raise ValueError(text)
    return key, YAML(typ="safe", pure=True).load(value)
