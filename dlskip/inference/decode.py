"""Greedy decoding that keeps the account of every layer: which ran for which token."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dlskip.data.batches import left_pad
from dlskip.errors import DlskipError
from dlskip.inference.rules import Rules, asks, check_room
from dlskip.skip import Skipper
from dlskip.skip.stack import find_stack, output_logits


@dataclass
class Decoded:
    """What one prompt became.

    ``runs`` holds one (L,) bool row per forward that this prompt took part in: the prompt's own decision first, then
    one per generated token that was fed back. ``computed`` is what ``layer_tokens`` returns, where more was computed
    than these tokens' layers: other beams.
    """

    prompt_tokens: int
    tokens: list[int] = field(default_factory=list)
    runs: list[Tensor] = field(default_factory=list)
    computed: tuple[int, int, int, int] | None = None

    def layer_tokens(self) -> tuple[int, int, int, int]:
        """(skipped, all) layer applications of the prompt's tokens, and of the decoded tokens."""
        if self.computed is not None:
            return self.computed
        layers = len(self.runs[0])
        prompt = self.prompt_tokens * int((~self.runs[0]).sum())
        decoded = sum(int((~r).sum()) for r in self.runs[1:])
        return prompt, self.prompt_tokens * layers, decoded, (len(self.runs) - 1) * layers


def is_finished(tokens: Sequence[int], answers: Sequence[Sequence[int]] | None, eos: int | Collection[int]) -> bool:
    """Whether decoding may stop: at an end token, or once a closed set of answers is decided either way.

    With ``answers``, decoding ends when the tokens are one answer and no longer one can follow, or when they are the
    beginning of none (the answer is invalid).

    Examples:
        >>> yes, not_at_all = [5], [6, 7]
        >>> [is_finished(tokens, [yes, not_at_all], eos=1) for tokens in ([5], [6], [6, 7], [8])]
        [True, False, True, True]
    """
    if _ends(tokens[-1], eos):
        return True
    if answers is None:
        return False
    longer = [a for a in answers if list(a[: len(tokens)]) == list(tokens) and len(a) > len(tokens)]
    return not longer


def _ends(token: int, eos: int | Collection[int]) -> bool:
    return token == eos if isinstance(eos, int) else token in eos


@torch.inference_mode()
def decode(
    model: nn.Module,
    skipper: Skipper | None,
    prompts: Sequence[list[int]],
    *,
    eos: int | Collection[int],
    pad: int,
    max_new_tokens: int,
    answers: Sequence[Sequence[int]] | None = None,
    lengths: Sequence[int] | None = None,
    ruled: bool = True,
    clock: list[float] | None = None,
) -> list[Decoded]:
    """Decodes a batch greedily under the skipper's current policy. Finished rows leave the batch.

    Examples:
        >>> from dlskip.skip import skipper_of
        >>> done = decode(model, skipper_of(model), [[5, 6, 7], [8, 9]], eos=1, pad=2, max_new_tokens=4)
        >>> [one.prompt_tokens for one in done]
        [3, 2]

    Args:
        model: A causal LM.
        skipper: Its skipping, or None if it has none (all layers count as run).
        prompts: Token ids of each prompt.
        eos, pad: Special ids; any of several end tokens ends a row.
        max_new_tokens: Longest output.
        answers: Token ids of the possible answers of a closed task.
        lengths: Tokens to decode for each prompt, EOS or not: for timing, where every run must do the same work.
        ruled: Whether what the model's ``generation_config`` asks for is done (``dlskip.inference.rules``).
        clock: Receives the time (``time.perf_counter``) at which each forward's tokens are known.

    Raises:
        DlskipError: The prompts and outputs are too long for the model, ``generation_config`` asks for what only
            ``generate()`` can do, or the counted layer executions differ from the policy's decisions.
    """
    stack: Any = find_stack(model)
    device = next(model.parameters()).device
    check_room(model, max(map(len, prompts)) + max_new_tokens - 1)
    layers = int(stack.config.num_hidden_layers)
    inputs = {k: v.to(device) for k, v in left_pad(prompts, pad).items()}
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    position = (mask.cumsum(1) - 1).clamp(min=0)
    results = [Decoded(len(p)) for p in prompts]
    padded: list[list[int]] = inputs["input_ids"].tolist()
    rules = Rules(model, mask, max_new_tokens) if ruled and asks(model) else None
    alive = list(range(len(prompts)))
    cache: Any = None
    if skipper is not None:
        skipper.reset_counter()
        cache = skipper.new_cache()
    expected = counted = 0
    for _ in range(max_new_tokens):
        out = stack(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits = output_logits(model, out.last_hidden_state[:, -1])
        if rules:
            logits = rules([padded[row] + results[row].tokens for row in alive], alive, logits)
        following = logits.argmax(dim=-1).tolist()
        if clock is not None:
            clock.append(time.perf_counter())
        runs = torch.ones(len(alive), layers, dtype=torch.bool)
        if skipper is not None:
            assert skipper.last is not None
            runs = skipper.last.run_matrix()
            counted += sum(skipper.last.counter.ran)
            expected += int(runs.sum()) * ids.shape[1]
        keep = []
        for place, (row, token) in enumerate(zip(alive, following, strict=True)):
            results[row].tokens.append(token)
            results[row].runs.append(runs[place])
            tokens = results[row].tokens
            if not (is_finished(tokens, answers, eos) if lengths is None else len(tokens) >= lengths[row]):
                keep.append(place)
        if not keep:
            break
        if len(keep) < len(alive):
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            mask, position = mask[index], position[index]
            alive, following = [alive[i] for i in keep], [following[i] for i in keep]
        ids = torch.tensor(following, device=device)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        position = position[:, -1:] + 1
    if counted != expected:
        raise DlskipError(
            f"{counted} layer executions counted, {expected} decided", where="decode",
            mend="this is a bug in dlskip: the figures of this run cannot be trusted",
        )  # fmt: skip
    for result in results:
        if lengths is None and result.tokens and _ends(result.tokens[-1], eos):
            result.tokens.pop()
    return results
