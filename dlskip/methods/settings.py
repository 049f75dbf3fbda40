"""How a method is run: at full depth, or at one threshold, one share of layers asked for, or one price.

A setting is numbers, in code and in files (columns ``threshold``, ``share`` and ``price``, empty where not set). Only
``Setting.label`` writes it for people, and nothing reads that back. Imports nothing heavy: the report needs no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from dlskip.config import Params

Knob = Literal["threshold", "share", "price"]
BatchRule = Literal["1", "8", "16", "per_sample"]  # rows per batch that decide as one, or each row for itself

ALL = "all"  # the folder of the model that a baseline trains for all of its settings, where others have their share
LENDERS = {"skip_pretrain": "skip pretraining", "ours": "ours"}  # whose weights may be borrowed, and for people
KNOBS: tuple[Knob, ...] = get_args(Knob)  # the columns of a setting, in their order
PER_SAMPLE: BatchRule = "per_sample"


class Setting(BaseModel):
    """One way to run a method; with nothing set, its full depth.

    Args:
        threshold: In [0, 1]; a layer is skipped when the controller's skip probability exceeds it.
        share: Share of all layers to skip that is asked for, between 0 and 1.
        price: Price of a layer that the controllers are conditioned on, above 0.

    >>> Setting(threshold=0.5).label()
    'threshold 0.5'
    >>> Setting().full_depth
    True
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    threshold: float | None = Field(default=None, ge=0, le=1)
    share: float | None = Field(default=None, gt=0, lt=1)
    price: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_at_most(self) -> Setting:
        if sum(number is not None for number in self.columns().values()) > 1:
            raise ValueError("a setting has one of threshold, share and price, or none")
        return self

    def columns(self) -> dict[str, float | None]:
        """The columns of a setting in tables and records; None where not set."""
        return {"threshold": self.threshold, "share": self.share, "price": self.price}

    @property
    def knob(self) -> Knob | None:
        """Which of the three is set; None at full depth."""
        return next((knob for knob in KNOBS if self.columns()[knob] is not None), None)

    @property
    def number(self) -> float | None:
        """The threshold, share or price; None at full depth."""
        return next((number for number in self.columns().values() if number is not None), None)

    @property
    def full_depth(self) -> bool:
        """Whether nothing is skipped."""
        return self.knob is None

    def key(self) -> tuple[int, float]:
        """Sorts settings: full depth, then thresholds, shares and prices, each from few skipped layers to many."""
        if self.knob is None or self.number is None:
            return 0, 0.0
        return 1 + KNOBS.index(self.knob), -self.number if self.knob == "threshold" else self.number

    def label(self) -> str:
        """The setting in words, for people."""
        return self.short_label() if self.knob is None else f"{self.knob} {self.short_label()}"

    def short_label(self) -> str:
        """The number alone, where its reader knows what it is a number of."""
        return "full depth" if self.number is None else f"{self.number:g}"


FULL = Setting()  # the setting in which nothing is skipped


def thresholds(values: Iterable[float]) -> list[Setting]:
    """Settings with these thresholds."""
    return [Setting(threshold=value) for value in values]


def shares(values: Iterable[float]) -> list[Setting]:
    """Settings with these shares of skipped layers."""
    return [Setting(share=value) for value in values]


def prices(values: Iterable[float]) -> list[Setting]:
    """Settings with these prices."""
    return [Setting(price=value) for value in values]


def from_columns(threshold: float | None, share: float | None, price: float | None) -> Setting:
    """The setting of a row; an empty column is None or NaN."""
    return _known(*(None if x is None or math.isnan(x) else float(x) for x in (threshold, share, price)))


@lru_cache(maxsize=1024)
def _known(threshold: float | None, share: float | None, price: float | None) -> Setting:
    return Setting(threshold=threshold, share=share, price=price)


def rule_of(batch: int | str) -> BatchRule:
    """The batch rule that params.yaml writes as a number of rows, or ``per_sample``."""
    return next(rule for rule in get_args(BatchRule) if rule == str(batch))


def batch_rules(params: Params) -> list[BatchRule]:
    """The batch rules that ours is evaluated under: ``evaluate.batches``."""
    return [rule_of(batch) for batch in params.evaluate.batches]


def headline_rule(rules: Iterable[BatchRule]) -> BatchRule:
    """Of the batch rules that are evaluated, the one that the headline speaks of: one row at a time, else the first."""
    known = list(rules)
    return "1" if "1" in known else known[0]


def decides_alone(rule: BatchRule) -> bool:
    """Whether every row's layers are chosen for itself under a batch rule."""
    return rule in ("1", PER_SAMPLE)


def borrowed(name: str) -> tuple[str, str] | None:
    """Method and weights of a name ``<method>_on_<weights>``; None for any other name.

    >>> borrowed("unified_on_ours"), borrowed("unified")
    (('unified', 'ours'), None)
    """
    method, _, weights = name.rpartition("_on_")
    return (method, weights) if method and weights in LENDERS else None


class PlannedSetting(BaseModel):
    """A setting with what it runs on: an entry of a method's plan.

    Args:
        setting: The setting.
        weights: The artifact that is loaded.
        adapters: Whether its adapters and controllers are loaded too.
        layers: L, where ``skip`` counts.
        skip: The layers that no token runs.
        growing: By task, the longest target over which the number of skipped layers grows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    setting: Setting
    weights: str
    adapters: bool = False
    layers: int = Field(default=0, ge=0)
    skip: list[int] = []
    growing: dict[str, int] = {}
