"""Beam search that keeps the account of every layer: which ran for which token, of all beams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dlskip.errors import DlskipError
from dlskip.inference.decode import Decoded
from dlskip.inference.tracing import runs_of_row, trace
from dlskip.skip import Skipper


@torch.inference_mode()
def beam_search(
    model: nn.Module, skipper: Skipper, prompts: Sequence[list[int]], *, beams: int, eos: int, pad: int,
    max_new_tokens: int,
) -> list[Decoded]:  # fmt: skip
    """Decodes prompts one after the other under the skipper's current policy; each beam decides for itself.

    The search is that of ``generate()``, with all that the model's ``generation_config`` asks for.

    Examples:
        >>> from dlskip.skip import skipper_of
        >>> (best,) = beam_search(model, skipper_of(model), [[5, 6, 7]], beams=2, eos=1, pad=2, max_new_tokens=4)
        >>> best.layer_tokens()[1]  # the prompt's three tokens go through six layers in each beam
        36

    Args:
        model: A causal LM with skipping attached.
        skipper: Its skipping.
        prompts: Token ids of each prompt.
        beams: Beams kept at each step, two at least.
        eos, pad: Special ids.
        max_new_tokens: Longest output.

    Returns:
        Of each prompt the best beam and the layers that its tokens ran; ``computed`` counts those of all beams.

    Raises:
        DlskipError: The counted layer executions differ from the policy's decisions.
    """
    options = {
        "num_beams": beams, "do_sample": False, "max_new_tokens": max_new_tokens, "eos_token_id": eos,
        "pad_token_id": pad, "return_dict_in_generate": True, "output_scores": True,
    }  # fmt: skip
    generate: Any = model.generate
    results = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=next(model.parameters()).device)
        skipper.reset_counter()
        with trace(model) as report:
            found = generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        ran, every = [int(p.ran.sum()) for p in report.passes], [p.ran.numel() for p in report.passes]
        if sum(skipper.counter.ran) != sum(ran):
            raise DlskipError(
                f"{sum(skipper.counter.ran)} layer executions counted, {sum(ran)} decided", where="beam_search",
                mend="this is a bug in dlskip: the figures of this run cannot be trusted",
            )  # fmt: skip
        path = list(runs_of_row(report.passes, found.beam_indices[0].tolist()))
        tokens = found.sequences[0, len(prompt) :].tolist()
        results.append(
            Decoded(
                len(prompt), tokens[: tokens.index(eos)] if eos in tokens else tokens,
                [torch.tensor(runs) for runs in path[len(prompt) - 1 :]],
                (every[0] - ran[0], every[0], sum(every[1:]) - sum(ran[1:]), sum(every[1:])),
            )
        )  # fmt: skip
    return results
