"""Which layers a share of skipped layers stands for."""

from __future__ import annotations

from typing import Literal


def number_skipped(share: float, layers: int) -> int:
    """How many of L layers a share stands for: at most the L-2 that are free."""
    return min(round(share * layers), layers - 2)


def block(share: float, layers: int, where: Literal["top", "middle"]) -> list[int]:
    """A contiguous block: just below the last layer (Yuan et al. drop the top), or the centre of the free ones."""
    k = number_skipped(share, layers)
    first = layers - 1 - k if where == "top" else 1 + (layers - 2 - k) // 2
    return list(range(first, first + k))


def evenly_spaced_skips(share: float, layers: int) -> list[int]:
    """The skipped layers when L - k evenly spaced ones run, the first and the last among them."""
    run = layers - number_skipped(share, layers)
    kept = {round(i * (layers - 1) / (run - 1)) for i in range(run)}
    return [layer for layer in range(layers) if layer not in kept]
