"""ShortGPT (Men et al. 2024): the layers that change their input least are dropped, by block influence."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from dlskip.config import Params
from dlskip.data.batches import Batch, collate, encode
from dlskip.data.io import DATA, read_tasks
from dlskip.methods.base import Method, for_shares
from dlskip.methods.layer_sets import number_skipped
from dlskip.methods.settings import PlannedSetting
from dlskip.models import artifact
from dlskip.skip.stack import find_stack

TITLE = "ShortGPT"


@torch.no_grad()
def block_influence(model: nn.Module, batch: Batch) -> Tensor:
    """``BI_l = 1 - E[cos(h_l, h_{l+1})]`` over the tokens of a batch, padding left out: (L,) float32."""
    states = find_stack(model)(**batch.inputs, use_cache=False, output_hidden_states=True).hidden_states
    real = batch.attention_mask.bool()
    pairs = pairwise(states)
    # The last state that Transformers hands out is normalised, so the last layer's influence is no guide; it is kept.
    return torch.stack([1 - torch.cosine_similarity(a[real].float(), b[real].float(), dim=-1).mean() for a, b in pairs])


class ShortGPT(Method):
    """Training-free: the fine-tuned model without its least influential layers."""

    name = "shortgpt"

    def on(self, params: Params, backbone: str, weights: Path, *, adapters: bool = False) -> list[PlannedSetting]:
        own = artifact.as_trained(params, weights) if adapters else params
        skip = weights if adapters else None  # at full depth, so that adapters are all that it adds
        model, tokenizer = artifact.build_model(own, backbone, weights=weights, skip=skip, skipping=adapters)
        tasks = [*params.prepare.nlu, *params.prepare.mt]
        each = max(1, params.baselines.shortgpt.examples // len(tasks))
        rows = [e for task in tasks for e in read_tasks(DATA, [task], "validation")[:each]]
        batch = collate(encode(rows, tokenizer, 2**20), tokenizer.pad_token_id).to(artifact.device_of(params))
        influence = block_influence(model, batch)
        free = influence[1:-1].argsort().add(1).tolist()  # the least influential first

        def least(share: float, layers: int) -> list[int]:
            return sorted(free[: number_skipped(share, layers)])

        return for_shares(params, backbone, weights, least, adapters=adapters)


METHOD = ShortGPT()
