"""What a grammar is: a task's constructions, how often each is drawn, and which of them training never sees.

Each construction is a function, named as what it builds. It yields both labels from the same words in another
arrangement, so that neither a constant answer nor a bag of words can tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, TypeVar

Row = dict[str, str]
Construction = TypeVar("Construction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Grammar(Generic[Construction]):
    """One understanding task.

    Args:
        generate: Makes a row with a label, 0 or 1, by a construction.
        weights: How often each construction is drawn, relative to the others.
        unseen: Constructions that no training row shows.
    """

    generate: Callable[[Random, int, Construction], Row]
    weights: Mapping[Construction, int]
    unseen: frozenset[Construction]

    def row(self, rng: Random, split: str, label: int) -> Row:
        """A row of a split."""
        return self.generate(rng, label, self.construction(rng, split))

    def construction(self, rng: Random, split: str) -> Construction:
        """Draws a construction for a row of a split."""
        allowed = [made for made in self.weights if split != "train" or made not in self.unseen]
        return rng.choices(allowed, [self.weights[made] for made in allowed])[0]

    def names(self) -> list[str]:
        """The names of the constructions."""
        return [made.__name__ for made in self.weights]

    def only(self, names: Collection[str]) -> Grammar[Construction]:
        """The grammar of these constructions alone, shown in training too."""
        return Grammar(self.generate, {m: w for m, w in self.weights.items() if m.__name__ in names}, frozenset())
