"""Lossless decoding: the skipping model drafts tokens, the full model verifies them in one pass (docs/method.md §6).

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192, algorithm 1) without a second model. Both sides share
one cache, whose prefix only ever holds what full depth computed: what the drafter appends is dropped before the
verifier runs over the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from dlskip.errors import DlskipError
from dlskip.inference.acceptance import GreedyTokens, SampledTokens
from dlskip.inference.rules import Rules, check_room, special
from dlskip.skip import Policy, Skipper, skipper_of
from dlskip.skip.cache import SkipCache
from dlskip.skip.selection import Selection
from dlskip.skip.stack import causal_lm, find_stack, output_logits


@dataclass(frozen=True)
class Speculated:
    """What a batch of B prompts became, and what it took.

    A row's new tokens are its ``accepted`` drafts and one token of each of its ``passes``; only a row that ends with a
    drafted EOS goes without its last pass's token.
    """

    sequences: Tensor  # (B, T) long: the prompts as given, the new tokens (with EOS), padding on the right
    layers: int  # L
    drafted: Tensor  # (B,) long, tokens drafted: as many as the drafter's passes
    accepted: Tensor  # (B,) long, drafted tokens that the verifier kept
    passes: Tensor  # (B,) long, full-depth passes, the prompt's included
    skipped: Tensor  # (B,) long, layers skipped by the drafter, summed over its passes

    @property
    def acceptance_rate(self) -> Tensor:
        """Accepted share of the drafted tokens: (B,) float32, 0 where none was drafted."""
        return self.accepted / self.drafted.clamp(min=1)

    @property
    def skipped_share(self) -> Tensor:
        """Share of layers that the drafter's passes skipped: (B,) float32, 0 where none was drafted."""
        return self.skipped / (self.layers * self.drafted.clamp(min=1))


class _Rows:
    """The rows that are still decoded, and their cache: left-padded without holes, all layers equally long.

    Args:
        model, skipper: A causal LM and its skipping.
        mask: (B, T) long, of the prompts that the first ``advance`` will run.
    """

    def __init__(self, model: nn.Module, skipper: Skipper, mask: Tensor) -> None:
        self.model = model
        self.skipper = skipper
        self.stack = find_stack(model)
        # Without a configuration layers of sliding-window attention keep all tokens too (their mask sees to the
        # window): dropping rejected tokens from a full window would need those that it has lost.
        self.cache = SkipCache()
        self.mask = mask  # (B, S) long: what the cache holds, and the prompts before it does
        self.ids: list[list[int]] = []  # of each row, all that was decided: what rules look at
        self.places: list[int] = []  # of each row, among the prompts

    def advance(self, ids: Tensor) -> Tensor:
        """Runs (B, T) new tokens under the skipper's policy: hidden states (B, T, D)."""
        width = self.cache.get_seq_length() + ids.shape[1]
        self.mask = F.pad(self.mask, (0, width - self.mask.shape[1]), value=1)
        position = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        hidden: Tensor = self.stack(
            input_ids=ids, attention_mask=self.mask, position_ids=position, past_key_values=self.cache, use_cache=True
        ).last_hidden_state
        return hidden

    def draft(
        self, ids: Tensor, limit: Tensor, tokens: GreedyTokens | SampledTokens, eos: Tensor, confidence: float,
        rules: Rules,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Drafts after the pending tokens ``ids`` (B, 1) and leaves the cache as it was.

        A row stops at ``limit`` (B,), after EOS, and after a draft whose distribution was not confident: before the
        next token is drawn, never taking one back, so that the output's distribution does not depend on it.

        Returns:
            Drafts (B, K) long, how many each row really made, and the layers they skipped, both (B,) long.
        """
        drafts = ids[:, :0]
        drafted = torch.zeros_like(limit)
        skipped = torch.zeros_like(limit)
        drafting = limit > 0
        while bool(drafting.any()):
            logits = self.ruled(rules, output_logits(self.model, self.advance(ids)[:, -1]), drafts)
            ids = tokens.draft(logits)
            drafts = torch.cat([drafts, ids], dim=1)
            assert self.skipper.last is not None
            drafted += drafting
            skipped += drafting * (~self.skipper.last.run_matrix()).sum(dim=1).to(limit.device)
            drafting = drafting & (drafted < limit) & ~torch.isin(ids[:, 0], eos)
            if confidence > 0:
                drafting = drafting & (logits.softmax(dim=-1).amax(dim=-1) >= confidence)
        self._crop(drafts.shape[1])
        return drafts, drafted, skipped

    def ruled(self, rules: Rules, logits: Tensor, drafts: Tensor) -> Tensor:
        """Logits (B, V) of the token that follows ``drafts`` (B, K), as ``rules`` change them."""
        if not rules:
            return logits
        so_far = [line + draft for line, draft in zip(self.ids, drafts.tolist(), strict=True)]
        return rules(so_far, self.places, logits)

    def keep(self, rows: Tensor, drop: Tensor) -> None:
        """Keeps ``rows`` (B',) of the batch, each without its last ``drop`` (B,) tokens.

        What is left of a row moves to the right end, so that no row waits for another and the distance of two slots
        stays the distance of their tokens (sliding windows count slots).
        """
        if len(rows) == len(self.mask) and bool((drop == drop[0]).all()):
            self._crop(int(drop[0]))
            return
        drop = drop[rows, None]  # (B', 1)
        lengths = self.mask[rows].sum(dim=1, keepdim=True) - drop
        slots = torch.arange(-int(lengths.max()), 0, device=rows.device)  # counted from the right end
        kept = Selection(rows, (self.mask.shape[1] - drop + slots).clamp(min=0))
        self.mask = (slots >= -lengths).long()
        layers: Any = self.cache.layers  # of (B, H, S, d) keys and values
        for layer in layers:
            layer.keys = kept.take(layer.keys.transpose(1, 2)).transpose(1, 2)
            layer.values = kept.take(layer.values.transpose(1, 2)).transpose(1, 2)

    def _crop(self, count: int) -> None:
        self.cache.crop(-count)
        self.mask = self.mask[:, : self.mask.shape[1] - count]


@torch.inference_mode()
def speculate(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    draft_tokens: int = 4,
    draft_confidence: float = 0.0,
    do_sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | Sequence[int] | Tensor | None = None,
    pad_token_id: int | None = None,
    generator: torch.Generator | None = None,
    policy: Policy | None = None,
    token_type_ids: Tensor | None = None,  # noqa: ARG001 - what some tokenizers return besides
) -> Speculated:
    """Decodes as full depth does (adapters on, nothing skipped), with drafts by the model's own dynamic skipping.

    Examples:
        >>> done = dlskip.speculate(model, **inputs, max_new_tokens=50)
        >>> text = tokenizer.batch_decode(done.sequences, skip_special_tokens=True)
        >>> done.acceptance_rate, done.skipped_share  # of each row
        (tensor([...]), tensor([...]))

    Greedy decoding takes the likeliest token of a full-depth pass over the tokens before it, as ``generate()`` does:
    with the penalties, suppressed tokens, least lengths and end tokens of ``generation_config``. Sampling draws from
    the warped distribution of full depth. Neither depends on the policy, on ``draft_tokens`` or on the other rows. The
    verifying pass sees several tokens at once, where ordinary decoding sees one, and kernels may then sum in another
    order. So if the logits of two tokens differ by a rounding error only, the other token may be chosen, as in a batch
    of another size. This is more frequent in bfloat16 than in float32.

    Args:
        model: A causal LM with skipping attached.
        input_ids: (B, T) long, left-padded prompts.
        attention_mask: (B, T) of 0/1; None = no padding.
        max_new_tokens: Longest output.
        draft_tokens: How many tokens are drafted at most before each verification.
        draft_confidence: In [0, 1]. A row stops drafting once the drafter's top probability falls below (as in Zhang
            et al. 2023, arXiv:2309.08168); 0 = never.
        do_sample: Samples instead of decoding greedily; the next three are for sampling only.
        temperature, top_k, top_p: As in ``generate()``; None = those of ``generation_config``, or else off.
        eos_token_id: Ends a row; None = the model's own (``generation_config``), an empty sequence = none.
        pad_token_id: Fills shorter rows; None = the model's own, or else its EOS.
        generator: Of all draws of tokens, on the model's device; None = torch's own.
        policy: The drafter's; None = the skipper's current one. ``Forced`` masks must be (L,), since rows leave.
        token_type_ids: What some tokenizers return besides; decoders have no use for them.

    Raises:
        DlskipError: No skipping is attached or enabled, there is no prompt, prompts are not left-padded, a parameter is
            out of range, or ``generation_config`` asks for what only ``generate()`` can do.
    """
    skipper = skipper_of(model)
    if not skipper.enabled:
        raise DlskipError("skipping is disabled", where="speculate", mend="call it outside of disabled()")
    policy = skipper.policy if policy is None else policy
    if input_ids.dim() != 2 or not input_ids.numel():
        raise DlskipError(f"input_ids of shape {list(input_ids.shape)}", where="speculate", mend="(rows, tokens)")
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
    _check(input_ids, mask, max_new_tokens, draft_tokens, draft_confidence)
    check_room(model, input_ids.shape[1] + max_new_tokens - 1)
    stops, pad = special(model, eos=eos_token_id, pad=pad_token_id)
    eos = torch.tensor(stops, dtype=torch.long, device=input_ids.device)
    tokens = SampledTokens(generator) if do_sample else GreedyTokens()
    warping = _warping(model, temperature, top_k, top_p) if do_sample else {}
    rules = Rules(model, mask, max_new_tokens, eos_token_id=stops or None, do_sample=do_sample, **warping)
    rows = _Rows(model, skipper, mask)
    prompts = input_ids.tolist()
    ids = input_ids
    limit = torch.zeros_like(input_ids[:, 0])
    outputs: list[list[int]] = [[] for _ in mask]
    alive = list(range(len(mask)))
    totals = torch.zeros(4, len(mask), dtype=torch.long)  # drafted, accepted, passes, skipped
    while alive:
        rows.places, rows.ids = alive, [prompts[row] + outputs[row] for row in alive]
        with skipper.using(policy, alone=True):  # not in the first round, whose limit is 0: full depth reads the prompt
            drafts, drafted, skipped = rows.draft(ids, limit, tokens, eos, draft_confidence, rules)
        with skipper.full_depth(alone=True):
            hidden = rows.advance(torch.cat([ids, drafts], dim=1))[:, -1 - drafts.shape[1] :]
        judged = output_logits(model, hidden)
        if rules:
            places = range(judged.shape[1])
            judged = torch.stack([rows.ruled(rules, judged[:, k], drafts[:, :k]) for k in places], dim=1)
        accepted, following = tokens.verify(drafts, drafted, judged)
        totals[:, alive] += torch.stack([drafted, accepted, torch.ones_like(drafted), skipped]).cpu()
        keep = []
        lines = zip(alive, accepted.tolist(), drafts.tolist(), following.tolist(), strict=True)
        for place, (row, count, draft, own) in enumerate(lines):
            ended = count > 0 and draft[count - 1] in stops
            outputs[row] += draft[:count] if ended else draft[:count] + own
            if outputs[row][-1] not in stops and len(outputs[row]) < max_new_tokens:
                keep.append(place)
        alive = [alive[place] for place in keep]
        if alive:
            index = torch.tensor(keep, device=input_ids.device)
            rows.keep(index, drafts.shape[1] - accepted)
            ids = following[index]
            # A round adds the verifier's token to the accepted ones: the last token of a row is never a draft.
            room = [min(draft_tokens, max_new_tokens - len(outputs[row]) - 1) for row in alive]
            limit = torch.tensor(room, device=input_ids.device)
    new = pad_sequence([torch.tensor(output) for output in outputs], batch_first=True, padding_value=pad)
    return Speculated(torch.cat([input_ids, new.to(input_ids.device)], dim=1), skipper.num_layers, *totals)


def _check(ids: Tensor, mask: Tensor, max_new_tokens: int, draft_tokens: int, draft_confidence: float) -> None:
    if mask.shape != ids.shape:
        raise DlskipError(f"is of shape {list(mask.shape)}, the prompts {list(ids.shape)}", where="attention_mask")
    if not bool(mask[:, -1].all()) or bool((mask.diff(dim=1) < 0).any()):
        raise DlskipError("prompts are not left-padded", where="attention_mask", mend='padding_side="left"')
    if max_new_tokens < 1 or draft_tokens < 1 or not 0 <= draft_confidence <= 1:
        raise DlskipError("out of range", where="speculate", mend="both numbers of tokens >= 1, draft_confidence 0..1")


def _warping(model: Any, temperature: float | None, top_k: int | None, top_p: float | None) -> dict[str, Any]:
    """Sampling options: those given, or else those of ``generation_config``, or else none at all."""
    config = causal_lm(model).generation_config
    given = {"temperature": (temperature, 1.0), "top_k": (top_k, 0), "top_p": (top_p, 1.0)}
    found: dict[str, float] = {}
    for name, (value, off) in given.items():
        own = getattr(config, name, None) if value is None else value
        found[name] = off if own is None else own
    if not (0 < found["temperature"] < math.inf and found["top_k"] >= 0 and 0 < found["top_p"] <= 1):
        raise DlskipError(f"out of range: {found}", where="speculate: sampling")
    return found
