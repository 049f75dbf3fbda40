"""What a layer costs for fewer rows: the bound of skipping where every row of a batch decides for itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from dlskip.bench.timing import timed_call
from dlskip.data.batches import left_pad
from dlskip.skip.stack import find_layers, find_stack

Costs = dict[str, dict[int, float]]  # by phase and number of rows, ms


def layer_costs(plain: Any, small: Any, prompts: Sequence[list[int]], pad: int, *, repeats: int = 5) -> Costs:
    """Median milliseconds that one layer adds to a forward pass of 1, 2, 4 ... rows, and of all.

    Args:
        plain: The backbone.
        small: The same with fewer layers; what the others cost together is what they take longer.
        prompts: Token ids, one batch.
        pad: Padding id.
        repeats: Turns; one more comes first, to warm up.
    """
    counts = sorted({*(2**i for i in range(len(prompts).bit_length())), len(prompts)})
    more = len(find_layers(plain)[2]) - len(find_layers(small)[2])
    found: Costs = {"prefill": {}, "decode": {}}
    for rows in tqdm(counts, desc="layers by rows", leave=False):
        inputs = {k: v.to(plain.device) for k, v in left_pad(prompts[:rows], pad).items()}
        taken: dict[str, list[list[float]]] = {"prefill": [[], []], "decode": [[], []]}
        for turn in range(repeats + 1):
            for which, model in enumerate((plain, small)):
                prompt, token = _forward(model, inputs)
                if turn:
                    taken["prefill"][which].append(prompt)
                    taken["decode"][which].append(token)
        for phase, (whole, little) in taken.items():
            found[phase][rows] = 1e3 * float(np.median(whole) - np.median(little)) / more
    return found


def expected(costs: dict[int, float], batch: int, p: float) -> float:
    """Mean cost, in ms, of a layer that each of ``batch`` rows skips with probability ``p``; free if none runs it."""
    counts = [0, *costs]
    chances = [math.comb(batch, n) * (1 - p) ** n * p ** (batch - n) for n in range(batch + 1)]
    return float(np.dot(chances, np.interp(range(batch + 1), counts, [0.0, *costs.values()])))


@torch.inference_mode()
def _forward(model: Any, inputs: dict[str, Any]) -> tuple[float, float]:
    """Seconds of a prompt pass, and of the pass of one more token."""
    stack: Any = find_stack(model)  # the output layer costs both models the same
    mask = inputs["attention_mask"]
    token = inputs["input_ids"][:, -1:]
    longer = torch.cat([mask, torch.ones_like(token)], dim=1)
    out, first = timed_call(lambda: stack(**inputs, use_cache=True))
    _, second = timed_call(
        lambda: stack(input_ids=token, attention_mask=longer, past_key_values=out.past_key_values, use_cache=True)
    )
    return first, second
