"""Skip-decode: the same layers for every sample, more of them the further decoding is (docs/method.md §9)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dlskip.config import Params
from dlskip.data.batches import encode
from dlskip.data.io import DATA, read_tasks
from dlskip.methods.base import Method, for_shares
from dlskip.methods.layer_sets import block, number_skipped
from dlskip.methods.settings import BatchRule, PlannedSetting
from dlskip.models.backbone import load_tokenizer
from dlskip.skip import Policy

TITLE = "Skip-decode"


class Growing(Policy):
    """Skips the first k of a list of layers, and k grows linearly with the generated position.

    The schedule is monotone, so keys and values that a token did not leave at a layer are never asked for again.

    Args:
        order: Layers, those that are skipped first at the front; k is at most their number.
        horizon: Generated position at which all of them are skipped; 0 = at once (classification).
    """

    def __init__(self, order: Sequence[int], horizon: int) -> None:
        self.order = order
        self.horizon = horizon
        self.position = 0

    def begin(self, n: int, layers: int, tokens: int, device: torch.device) -> None:
        super().begin(n, layers, tokens, device)
        self.position = 0 if tokens > 1 else self.position + 1  # a prompt has more than one token
        reached = min(1.0, self.position / self.horizon) if self.horizon else 1.0
        self._now = set(self.order[: round(len(self.order) * reached)])
        self._none = torch.zeros(n, dtype=torch.bool)

    def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> Tensor | None:
        return self._none if layer in self._now else None


class SkipDecode(Method):
    """No training of its own: it runs on the fine-tuned model."""

    name = "skip_decode"

    def on(self, params: Params, backbone: str, weights: Path, *, adapters: bool = False) -> list[PlannedSetting]:
        config = params.baselines.skip_decode
        tokenizer = load_tokenizer(backbone, params.backbones[backbone])
        growing = {}
        for task in params.prepare.mt:
            lengths = [len(e.target) for e in encode(read_tasks(DATA, [task], "train"), tokenizer, 2**20)]
            growing[task] = int(np.quantile(lengths, config.horizon))

        def skips(share: float, layers: int) -> list[int]:
            return in_order(share, layers, config.order)

        return for_shares(params, backbone, weights, skips, adapters=adapters, growing=growing)

    def policy(self, planned: PlannedSetting, task: str, batch: BatchRule) -> Policy:
        return Growing(planned.skip, planned.growing.get(task, 0))


def in_order(share: float, layers: int, order: Literal["intermediate", "shallow"]) -> list[int]:
    """The layers that a share stands for, those that are skipped first at the front.

    >>> in_order(0.5, 10, "intermediate")  # a block that grows from the centre
    [4, 5, 3, 6, 2]
    >>> in_order(0.5, 10, "shallow")
    [1, 2, 3, 4, 5]
    """
    most = number_skipped(share, layers)
    if order == "shallow":
        return list(range(1, 1 + most))
    grown: list[int] = []
    for count in range(1, most + 1):
        grown += [layer for layer in block(count / layers, layers, "middle") if layer not in grown]
    return grown


METHOD = SkipDecode()
