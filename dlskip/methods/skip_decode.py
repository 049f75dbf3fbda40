"""Skip-decode: the same layers for every sample, more of them the further decoding is (docs/method.md §9)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dlskip.config import Params
from dlskip.data.batches import encode
from dlskip.data.io import DATA, read_tasks
from dlskip.methods.base import Method, for_shares
from dlskip.methods.layer_sets import number_skipped
from dlskip.methods.settings import BatchRule, PlannedSetting
from dlskip.models.backbone import load_tokenizer
from dlskip.skip import Policy

TITLE = "Skip-decode"


class Growing(Policy):
    """Skips layers 1 to k, and k grows linearly with the generated position.

    The schedule is monotone, so keys and values that a token did not leave at a layer are never asked for again.

    Args:
        most: Largest k.
        horizon: Generated position at which it is reached; 0 = at once (classification).
    """

    def __init__(self, most: int, horizon: int) -> None:
        self.most = most
        self.horizon = horizon
        self.position = 0

    def begin(self, n: int, layers: int, tokens: int, device: torch.device) -> None:
        super().begin(n, layers, tokens, device)
        self.position = 0 if tokens > 1 else self.position + 1  # a prompt has more than one token
        reached = min(1.0, self.position / self.horizon) if self.horizon else 1.0
        self._now = round(self.most * reached)
        self._none = torch.zeros(n, dtype=torch.bool)

    def decide(self, layer: int, logit: Tensor | None, state: Tensor | None) -> Tensor | None:
        return self._none if 1 <= layer <= self._now else None


class SkipDecode(Method):
    """No training of its own: it runs on the fine-tuned model."""

    name = "skip_decode"

    def on(self, params: Params, backbone: str, weights: Path, *, adapters: bool = False) -> list[PlannedSetting]:
        tokenizer = load_tokenizer(backbone, params.backbones[backbone])
        growing = {}
        for task in params.prepare.mt:
            lengths = [len(e.target) for e in encode(read_tasks(DATA, [task], "train"), tokenizer, 2**20)]
            growing[task] = int(np.quantile(lengths, params.baselines.skip_decode.horizon))
        return for_shares(params, backbone, weights, _lowest, adapters=adapters, growing=growing)

    def policy(self, planned: PlannedSetting, task: str, batch: BatchRule) -> Policy:
        return Growing(len(planned.skip), planned.growing.get(task, 0))


def _lowest(share: float, layers: int) -> list[int]:
    """The layers above layer 0 that a share stands for."""
    return list(range(1, 1 + number_skipped(share, layers)))


METHOD = SkipDecode()
