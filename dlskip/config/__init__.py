"""params.yaml as typed, validated objects.

Every hyperparameter of the project is declared in this package once, with its range and its source in the paper. An
unknown key, a wrong type or a value out of range stops with the key's path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator

from dlskip.config.sections import (
    Backbone,
    Evaluate,
    Figures,
    File,
    Grid,
    Model,
    Name,
    Prepare,
    Section,
    Speed,
    Train,
    Tune,
)
from dlskip.config.training import (
    RL,
    Ablations,
    AdapterInit,
    Baselines,
    Finetune,
    Mixer,
    PretrainStatic,
    SkipPretrain,
    Static,
    Variant,
)
from dlskip.data import tasks
from dlskip.errors import DlskipError, needs, offences
from dlskip.methods import names
from dlskip.methods.settings import borrowed

__all__ = [
    "RL", "Ablations", "AdapterInit", "Backbone", "Baselines", "Evaluate", "Figures", "Finetune", "Grid", "Mixer",
    "Model", "Params", "Prepare", "PretrainStatic", "Section", "SkipPretrain", "Speed", "Static", "Train", "Tune",
    "Variant", "load", "read_yaml", "validate", "varied",
]  # fmt: skip

PARAMS = Path("params.yaml")


class Params(Section):
    """All of params.yaml."""

    recipe: File
    device: Literal["auto", "cpu", "cuda"]
    grid: Grid
    backbones: dict[Name, Backbone]
    model: Model
    prepare: Prepare
    finetune: Finetune
    adapter_init: AdapterInit
    skip_pretrain: SkipPretrain
    rl: RL
    mixer: Mixer
    baselines: Baselines
    evaluate: Evaluate
    speed: Speed
    ablations: Ablations
    figures: Figures

    @model_validator(mode="after")
    def _names_exist(self) -> Params:
        if missing := [name for name in self.grid.backbones if name not in self.backbones]:
            raise ValueError(f"grid.backbones names {missing}, which `backbones` does not define")
        chosen = self.figures.headline_threshold
        if chosen is not None and chosen not in self.evaluate.thresholds:
            raise ValueError(f"figures.headline_threshold {chosen} is none of evaluate.thresholds")
        return self

    @model_validator(mode="after")
    def _methods_come_from_somewhere(self) -> Params:
        grid = self.grid
        if unknown := [name for name in grid.baselines if name not in names.baselines()]:
            raise ValueError(f"grid.baselines names {unknown[0]!r}, which is none of {', '.join(names.baselines())}")
        made = {name: self.baselines.models(name) for name in grid.baselines}
        if grid.trained != (needed := [name for name, models in made.items() if models == "per_share"]):
            raise ValueError(f"grid.trained must be {needed}: the baselines with a `train` section, in their order")
        if grid.trained_once != (needed := [name for name, models in made.items() if models == "one"]):
            raise ValueError(f"grid.trained_once must be {needed}: the baselines that train one model")
        if unknown := [name for name in grid.borrowed if name not in names.borrowed_names()]:
            raise ValueError(f"grid.borrowed names {unknown[0]!r}: it takes {', '.join(names.borrowed_names())}")
        if unknown := [name for name in grid.ablations if name not in self.ablations.variants]:
            raise ValueError(f"grid.ablations names {unknown}, which `ablations.variants` does not define")
        if lost := [name for name in grid.timed if name not in grid.methods]:
            raise ValueError(f"grid.timed names {lost}: list each in grid.own, baselines, borrowed or ablations too")
        return self

    @model_validator(mode="after")
    def _variants_have_names_of_their_own(self) -> Params:
        variants = self.ablations.variants
        if taken := [name for name in variants if name in names.RESERVED or borrowed(name)]:
            raise ValueError(f"ablations.variants names {taken[0]!r}, which is taken: choose another name")
        for name, variant in variants.items():
            if variant.against == name or variant.against not in ("ours", *variants):
                raise ValueError(
                    f"ablations.variants.{name}.against is {variant.against!r}: give ours or another variant"
                )
        return self

    @model_validator(mode="after")
    def _ours_is_told_no_price(self) -> Params:
        if self.model.prices is not None:
            raise ValueError("model.prices: set it in a variant (ablations.variants); ours is judged by its thresholds")
        return self

    @model_validator(mode="after")
    def _shares_belong_together(self) -> Params:
        if (self.rl.share is None) != (self.mixer.share is None):
            raise ValueError("give both rl.share and mixer.share, or null for both")
        return self

    @model_validator(mode="after")
    def _variants_are_valid(self) -> Params:
        for name, variant in self.ablations.variants.items():
            for section, changes in variant.set.items():
                try:
                    _merged(getattr(self, section), changes)
                except ValidationError as error:
                    where = f"ablations.variants.{name}.set.{section}."
                    raise ValueError(offences(error, _known(), where)) from error
            changed = varied(self, variant)
            if (changed.rl.share is None) != (changed.mixer.share is None):
                raise ValueError(f"ablations.variants.{name}: give both rl.share and mixer.share, or null for both")
            if changed.model.prices is not None and changed.rl.share is not None:
                raise ValueError(f"ablations.variants.{name} draws prices, so it needs rl.share: null in its `set`")
            if changed.model.prices is not None and name in self.grid.ablations and not self.evaluate.prices:
                raise ValueError(f"evaluate.prices is empty: ablation {name!r} is evaluated at prices")
        return self


def _merged(section: Section, changes: dict[str, Any]) -> Section:
    """A section with nested changes, validated again."""

    def merge(base: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        both = {k: merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v
                for k, v in new.items()}  # fmt: skip
        return base | both

    return type(section).model_validate(merge(section.model_dump(), changes))


def varied(params: Params, variant: Variant) -> Params:
    """All parameters as an ablation's variant changes them."""
    return params.model_copy(
        update={name: _merged(getattr(params, name), changes) for name, changes in variant.set.items()}
    )


def _known() -> set[str]:
    return {name for section in Section.__subclasses__() for name in section.model_fields}


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML 1.2 mapping (so that ``1e-4`` is a number, as DVC reads it).

    Raises:
        DlskipError: The file is missing, is not YAML, or is not a mapping.
    """
    with needs("pipeline"):  # the library itself reads no YAML
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

    if not path.is_file():
        raise DlskipError("no such file", where=str(path), mend="run from the repository's root")
    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DlskipError("not UTF-8", where=f"{path}:{line}", mend="save the file as UTF-8") from error
    except RecursionError as error:
        raise DlskipError("nested too deep", where=str(path)) from error
    except (YAMLError, ValueError, OverflowError) as error:  # ValueError: a number or a date that is none
        raise DlskipError(f"not valid YAML: {error}", where=str(path)) from error
    if not isinstance(data, dict):
        raise DlskipError("must be a mapping of sections", where=str(path))
    return data


def validate(data: dict[str, Any], where: str = "params.yaml") -> Params:
    """Checks a mapping against the schema; a ``DlskipError`` names every offending key and what is wrong with it."""
    try:
        params = Params.model_validate(data)
    except ValidationError as error:
        mend = "dlskip/config lists every key with its type and range"
        raise DlskipError(offences(error, _known()), where=where, mend=mend) from error
    tasks.define({name: task.definition(name) for name, task in params.prepare.tasks.items()})
    return params


def load_params(path: Path = PARAMS, *, backbone: str | None = None) -> Params:
    """Reads and validates ``params.yaml``; ``backbone`` must be one that it defines."""
    params = validate(read_yaml(path), str(path))
    if backbone is not None and backbone not in params.backbones:
        raise DlskipError(
            f"no backbone {backbone!r}", where=f"{path}: backbones", mend=f"one of {', '.join(params.backbones)}"
        )
    return params
