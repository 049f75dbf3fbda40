"""Running a skipping model over held-out prompts at full depth and at each setting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from dlskip.calibration.choose import Measurements
from dlskip.errors import DlskipError
from dlskip.inference.decode import Decoded, decode
from dlskip.inference.rules import check_room, special
from dlskip.skip import FullDepth, Policy, Threshold, skipper_of

Score = Callable[[str, str], float]


def agreement(tokens: Sequence[int], reference: Sequence[int]) -> float:
    """Share of positions at which two outputs have the same token; positions that only one has differ.

    Examples:
        >>> agreement([5, 6, 7], [5, 6, 8, 9])
        0.5
    """
    longest = max(len(tokens), len(reference))
    return sum(a == b for a, b in zip(tokens, reference, strict=False)) / longest if longest else 1.0


def exact_match(output: str, reference: str) -> float:
    """1 if the output is the reference, but for case and outer space; else 0.

    Examples:
        >>> exact_match(" Yes", "yes")
        1.0
    """
    return float(output.strip().casefold() == reference.strip().casefold())


def answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    policy: Policy,
    *,
    max_new_tokens: int = 64,
    closed: Sequence[Sequence[int]] | None = None,
    batch: int = 8,
) -> list[Decoded]:
    """Decodes every prompt greedily under a policy (arguments: see ``measure_settings``).

    Examples:
        >>> one, other = answers(model, tokenizer, ["The dog", "The house"], FullDepth(), max_new_tokens=4)
        >>> layers_run(one)
        1.0
    """
    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    check_room(model, max(map(len, encoded), default=0) + max_new_tokens - 1)
    stops, pad = special(model, tokenizer)
    skipper = skipper_of(model)
    decoded = list[Decoded]()
    with skipper.using(policy):
        for start in range(0, len(encoded), batch):
            decoded += decode(
                model, skipper, encoded[start : start + batch], eos=stops, pad=pad,
                max_new_tokens=max_new_tokens, answers=closed,
            )  # fmt: skip
    return decoded


def measure_settings(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    settings: Sequence[float],
    *,
    knob: Literal["threshold", "price"] = "threshold",
    references: Sequence[str] | None = None,
    score: Score = exact_match,
    max_new_tokens: int = 64,
    closed: Sequence[Sequence[int]] | None = None,
    batch: int = 8,
) -> Measurements:
    """Decodes every prompt greedily at full depth and at each setting, every row deciding for itself.

    Without references an example's loss is ``1 - agreement`` with the model's own output at full depth (consistency,
    as CALM calls it); with them it is ``max(0, score at full depth - score at the setting)``.

    Examples:
        >>> found = measure_settings(model, tokenizer, ["The dog", "The house"], [0.3, 0.5, 1], max_new_tokens=4)
        >>> found.settings
        array([1. , 0.5, 0.3])
        >>> found.losses.shape  # settings, prompts
        (3, 2)

    Args:
        model: A causal LM with skipping attached.
        tokenizer: Its tokenizer; its end token counts, and so do those of the model's ``generation_config``.
        prompts: n held-out prompts that neither training nor the choice of ``settings`` has seen.
        settings: In any order: thresholds in [0, 1], of which 1 skips nothing, or prices.
        knob: What they are; prices are for controllers conditioned on the price.
        references: The right output of each prompt.
        score: Quality of (output, reference), in [0, 1]; ``exact_match`` gives binary losses.
        max_new_tokens: Longest output.
        closed: Token ids of the possible answers of a closed task: decoding stops once one is decided.
        batch: Rows per batch; does not change the results.

    Raises:
        DlskipError: Fewer than two prompts, references of another number, or a score outside [0, 1].
    """
    if references is not None and len(references) != len(prompts):
        raise DlskipError(f"{len(references)} references of {len(prompts)} prompts", where="calibration")
    grid = np.array(sorted(set(settings), reverse=knob == "threshold"), dtype=np.float64)
    policies = [Threshold(x) if knob == "threshold" else Threshold(0.5, price=x) for x in grid]

    def quality(decoded: Sequence[Decoded], full: Sequence[Decoded]) -> list[float]:
        if references is None:
            return [agreement(d.tokens, f.tokens) for d, f in zip(decoded, full, strict=True)]
        texts = [str(tokenizer.decode(d.tokens, skip_special_tokens=True)) for d in decoded]
        scores = [score(text, reference) for text, reference in zip(texts, references, strict=True)]
        if not all(0 <= s <= 1 for s in scores):
            raise DlskipError(f"a score of {max(scores, key=abs)} is not in [0, 1]", where="score", mend="rescale it")
        return scores

    full, *skipping = (
        answers(model, tokenizer, prompts, policy, max_new_tokens=max_new_tokens, closed=closed, batch=batch)
        for policy in tqdm([FullDepth(), *policies], desc="calibrate", mininterval=2.0)
    )
    best = np.array(quality(full, full))
    return Measurements(
        settings=grid,
        knob=knob,
        losses=np.array([np.maximum(best - quality(decoded, full), 0) for decoded in skipping]),
        layers_run=np.array([[layers_run(d) for d in decoded] for decoded in skipping]),
        binary=references is not None and score is exact_match,
        quality="agreement" if references is None else getattr(score, "__name__", type(score).__name__),
        data_sha256=hashlib.sha256(json.dumps([list(prompts), references and list(references)]).encode()).hexdigest(),
    )


def layers_run(decoded: Decoded) -> float:
    """The share of an example's layer applications that ran, prompt and output tokens together.

    Examples:
        >>> import torch
        >>> prompt, token = torch.tensor([True, True, True]), torch.tensor([True, False, True])
        >>> round(layers_run(Decoded(prompt_tokens=3, tokens=[7, 8], runs=[prompt, token])), 3)
        0.917
    """
    skipped_prompt, prompt, skipped_output, output = decoded.layer_tokens()
    return 1 - (skipped_prompt + skipped_output) / (prompt + output)
