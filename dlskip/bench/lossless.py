"""The lossless mode over many prompts: are its tokens those of full depth, and is it faster?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

import dlskip
from dlskip import provenance
from dlskip.bench.timing import timed_call
from dlskip.errors import DlskipError
from dlskip.inference.speculative import Speculated, speculate
from dlskip.skip import skipper_of


@dataclass(frozen=True)
class Comparison:
    """One prompt, decoded greedily both ways.

    Args:
        task: What the prompt belongs to.
        tokens: New tokens of full depth.
        identical: Whether the lossless mode gave the same.
        tie: At the first token that differs, how far full depth's own logits of the two lie apart; None if none does.
        full, lossless: Seconds.
        drafted, accepted: Tokens.
        skipped: Share of layers that the drafter skipped.
    """

    task: str
    tokens: int
    identical: bool
    tie: float | None
    full: float
    lossless: float
    drafted: int
    accepted: int
    skipped: float


def compare(
    model: Any, prompts: Sequence[tuple[str, list[int]]], *, tokens: int, drafts: int, confidence: float, pad: int
) -> list[Comparison]:
    """Decodes every prompt both ways, in turn, one at a time.

    Args:
        model: With skipping attached; its current policy drafts.
        prompts: Task and token ids.
        tokens: Most new tokens.
        drafts, confidence: ``draft_tokens`` and ``draft_confidence`` of ``speculate``.
        pad: Padding id.

    Raises:
        DlskipError: There is no prompt.
    """
    if not prompts:
        raise DlskipError("no prompt", where="compare")
    found = []
    for i, (task, prompt) in enumerate(tqdm([prompts[0], *prompts], desc="lossless", mininterval=2.0)):
        ids = torch.tensor([prompt], device=model.device)
        options: dict[str, Any] = {"max_new_tokens": tokens, "pad_token_id": pad}

        def plain(ids: Tensor = ids, options: dict[str, Any] = options) -> Tensor:
            with dlskip.full_depth(model):
                sequences: Tensor = model.generate(ids, do_sample=False, **options)
                return sequences

        def lossless(ids: Tensor = ids, options: dict[str, Any] = options) -> Speculated:
            return speculate(model, ids, draft_tokens=drafts, draft_confidence=confidence, **options)

        with torch.inference_mode():
            if i % 2:
                (out, slow), (done, quick) = timed_call(plain), timed_call(lossless)
            else:
                (done, quick), (out, slow) = timed_call(lossless), timed_call(plain)
        ours, theirs = done.sequences[0].tolist(), out[0].tolist()
        if i:  # the first only warms up
            tie = _tie(model, ours, theirs)
            drafted = int(done.drafted[0])
            accepted = int(done.accepted[0])
            skipped = float(done.skipped_share[0])
            new = len(theirs) - len(prompt)
            found.append(Comparison(task, new, ours == theirs, tie, slow, quick, drafted, accepted, skipped))
    return found


def by_task(found: Sequence[Comparison]) -> pd.DataFrame:
    """A row per task and one for all: prompts, identical ones, acceptance, time per new token, speed-up."""
    frame = pd.DataFrame([asdict(one) for one in found])
    groups: list[tuple[str, pd.DataFrame]] = [(str(task), part) for task, part in frame.groupby("task", sort=False)]
    rows = []
    for task, part in [*groups, ("all", frame)]:
        ratios = part["full"] / part["lossless"]
        rows.append({
            "task": task, "prompts": len(part), "identical": int(part["identical"].sum()),
            "widest tie": part["tie"].max() if part["tie"].notna().any() else None,
            "drafter skipped %": 100 * np.average(part["skipped"], weights=part["drafted"].clip(lower=1e-9)),
            "accepted %": 100 * part["accepted"].sum() / max(1, part["drafted"].sum()),
            "tokens": int(part["tokens"].sum()),
            "full depth, ms a token": 1e3 * part["full"].sum() / part["tokens"].sum(),
            "lossless, ms a token": 1e3 * part["lossless"].sum() / part["tokens"].sum(),
            "speed-up": part["full"].sum() / part["lossless"].sum(),
            "quartiles over prompts": f"{ratios.quantile(0.25):.2f} to {ratios.quantile(0.75):.2f}",
        })  # fmt: skip
    return pd.DataFrame(rows)


def write_comparisons(found: Sequence[Comparison], about: Mapping[str, Any], model: Any, out: Path) -> pd.DataFrame:
    """Writes ``lossless.json`` and ``lossless.md`` into ``out``; returns the table."""
    table = by_task(found)
    known = dict(about) | {
        "layers": skipper_of(model).num_layers, "dtype": str(model.dtype).removeprefix("torch."),
        "device": provenance.device_name(model.device.type), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "dlskip": dlskip.__version__,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    document = {"about": known, "prompts": [asdict(one) for one in found]}
    (out / "lossless.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    clean = table.astype(object).where(table.notna(), None)
    note = "; ".join(f"{key}: {value}" for key, value in known.items())
    body = clean.to_markdown(index=False, floatfmt=".2f", missingval="–")
    head = "**Lossless decoding against full depth**"
    foot = "Greedy, one prompt at a time, decoded both ways in turn."
    text = "\n".join([head, "", body, "", f"{foot} {note}.", ""])
    (out / "lossless.md").write_text(text, encoding="utf-8")
    return table


def _tie(model: Any, ours: list[int], theirs: list[int]) -> float | None:
    """How far apart full depth's logits of the two tokens are where the outputs part; None if they do not."""
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if at is None:
        return None if len(ours) == len(theirs) else float("inf")
    with torch.inference_mode(), dlskip.full_depth(model):
        logits = model(torch.tensor([theirs[:at]], device=model.device)).logits[0, -1].float()
    return float((logits[ours[at]] - logits[theirs[at]]).abs())
