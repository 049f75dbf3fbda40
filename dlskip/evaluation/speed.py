"""Measured speed of prefill and decoding: prompts of several tasks in a batch, a fixed number of tokens, one run.

Every policy is timed in turn with full depth, and the turns are repeated, so that a machine that speeds up or slows
down does so for all of them. Speed-ups are ratios of medians.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from tqdm.auto import tqdm

from dlskip import provenance
from dlskip.config import Params
from dlskip.data.batches import encode
from dlskip.data.io import DATA, data_sha256, read_split
from dlskip.data.tasks import TASKS
from dlskip.evaluation.deployed import Deployed, deploy
from dlskip.inference.decode import Decoded, decode
from dlskip.methods import registry
from dlskip.methods.settings import FULL, PER_SAMPLE, BatchRule, PlannedSetting, rule_of
from dlskip.models import artifact
from dlskip.skip import FullDepth, Policy, Skipper

SPEEDS = Path("speeds")
TASK = "timing"  # what stands for the task in the rows
Prompts = list[list[int]]


@dataclass
class PolicyTiming:
    """Seconds of one policy, one entry per turn: the prompts' passes, and a token step after each of them."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    skip_prefill: float = 0.0
    skip_decode: float = 0.0

    @property
    def prefill_ms(self) -> float:
        """Median of a batch's prompt pass, in milliseconds."""
        return 1e3 * float(np.median(self.prefill))

    @property
    def decode_ms(self) -> float:
        """Median of a batch's token step, in milliseconds."""
        return 1e3 * float(np.median(self.decode))

    def followed_by(self, other: PolicyTiming) -> PolicyTiming:
        """This one's prefill with the decoding of ``other``."""
        return PolicyTiming(self.prefill, other.decode, self.skip_prefill, other.skip_decode)


def mixed(prompts: Sequence[Sequence[list[int]]], size: int, rows: int) -> list[Prompts]:
    """Batches of ``size`` prompts, one of each task in turn: as many as ``rows`` fill, at least one."""
    turns = [task[i] for i in range(max(map(len, prompts))) for task in prompts if i < len(task)]
    count = max(1, rows // size)
    drawn = [turns[i % len(turns)] for i in range(count * size)]
    return [drawn[i * size : (i + 1) * size] for i in range(count)]


def time_policies(
    model: nn.Module, skipper: Skipper, policies: Sequence[Policy], batches: Sequence[Prompts],
    *, tokens: int, repeats: int, pad: int,
) -> list[PolicyTiming]:  # fmt: skip
    """Times each policy on the same batches.

    Args:
        model: A causal LM.
        skipper: Its skipping.
        policies: What is timed, in turn; the first warms up before.
        batches: Token ids of the prompts.
        tokens: Token steps after the prompts' own pass; 0 times the prompts alone.
        repeats: Turns.
        pad: Padding id.
    """
    timings = [PolicyTiming() for _ in policies]

    def run(policy: Policy, timing: PolicyTiming) -> None:
        prefill = 0.0
        step = 0.0
        decoded = []
        with skipper.using(policy):
            for prompts in batches:
                clock = [time.perf_counter()]
                decoded += decode(
                    model, skipper, prompts, eos=-1, pad=pad, max_new_tokens=1 + tokens,
                    lengths=[1 + tokens] * len(prompts), clock=clock,
                )  # fmt: skip
                prefill += (clock[1] - clock[0]) / len(batches)
                step += (clock[-1] - clock[1]) / max(tokens, 1) / len(batches)
        timing.prefill.append(prefill)
        timing.decode += [step] if tokens else []
        timing.skip_prefill, timing.skip_decode = _shares(decoded)

    run(policies[0], PolicyTiming())
    for _ in range(repeats):
        for policy, timing in zip(policies, timings, strict=True):
            run(policy, timing)
    return timings


def _shares(decoded: Sequence[Decoded]) -> tuple[float, float]:
    skipped_p, all_p, skipped_d, all_d = np.sum([d.layer_tokens() for d in decoded], axis=0)
    return float(skipped_p / all_p), float(skipped_d / max(all_d, 1))


class Clock:
    """Times a method's settings: prefill of understanding prompts, decoding of translations.

    A policy skips other shares on other tasks, so each phase is timed on the tasks that mostly consist of it.

    Args:
        params: All parameters.
        name: The method.
    """

    def __init__(self, params: Params, name: str) -> None:
        self.params = params
        self.config = params.speed
        self.method = registry.method(name)
        tasks = [*params.prepare.nlu, *params.prepare.mt]
        self.answers, self.texts = ([t for t in tasks if TASKS[t].kind == kind] or tasks for kind in ("nlu", "mt"))
        self.sizes: dict[BatchRule, int] = {rule_of(size): size for size in self.config.batches}
        if name == "ours":  # elsewhere every row of a batch skips the same layers, or batches are not compared
            self.sizes[PER_SAMPLE] = params.evaluate.per_sample_batch

    def rows(self, deployed: Deployed, planned: Sequence[PlannedSetting]) -> Iterator[dict[str, Any]]:
        """Settings of one set of weights and its full depth: what ``reports/results.csv`` says of their speed."""
        skipping = [p for p in planned if not p.setting.full_depth]
        for batch, size in self.sizes.items():
            timings = self._timed(deployed, skipping, batch, size)
            for setting, timing in zip([FULL, *(p.setting for p in skipping)], timings, strict=True):
                for metric, value in _measured(timing, timings[0]).items():
                    yield {
                        "method": self.method.name, **setting.columns(), "batch": batch,
                        "split": self.params.evaluate.split, "task": TASK, "metric": metric, "value": value,
                        "skip_ratio": timing.skip_prefill, "n": size,
                    }  # fmt: skip

    def _timed(
        self, deployed: Deployed, skipping: Sequence[PlannedSetting], batch: BatchRule, size: int
    ) -> list[PolicyTiming]:
        """Full depth first, then the settings that skip."""
        found = []
        for tasks, tokens in ((self.answers, 0), (self.texts, self.config.tokens)):
            policies = [self.method.policy(p, tasks[-1], batch) for p in skipping]
            fixed = not any(policy.uses_heads for policy in policies)  # then one batch stands for all
            rows = (read_split(DATA, task, self.params.evaluate.split) for task in tasks)
            prompts = [[e.prompt for e in encode(some, deployed.tokenizer, 2**20)] for some in rows]
            timed = time_policies(
                deployed.model, deployed.skipper, [FullDepth(), *policies],
                mixed(prompts, size, 1 if fixed else self.config.rows), tokens=tokens, repeats=self.config.repeats,
                pad=int(deployed.tokenizer.pad_token_id),
            )  # fmt: skip
            found.append(timed)
        return [prefill.followed_by(decode) for prefill, decode in zip(*found, strict=True)]


def _measured(timing: PolicyTiming, full: PolicyTiming) -> dict[str, float]:
    """Milliseconds of prefill and of a decoding step, and how much faster than full depth they are."""
    return {
        "ms_prefill": timing.prefill_ms, "ms_decode": timing.decode_ms,
        "speedup_prefill": full.prefill_ms / timing.prefill_ms, "speedup_decode": full.decode_ms / timing.decode_ms,
        "skip_prefill": timing.skip_prefill, "skip_decode": timing.skip_decode,
    }  # fmt: skip


def time_method(params: Params, name: str, backbone: str, seed: int) -> None:
    """Times one method and writes ``speeds/<method>/<backbone>-<seed>/``."""
    started = time.time()
    clock = Clock(params, name)
    rows = []
    settings = clock.method.settings(params, backbone, seed)
    groups = [list(same) for _, same in groupby(settings, key=lambda p: p.weights)]
    with tqdm(total=len(groups) * len(clock.sizes), desc=f"speed {name}", mininterval=2.0) as bar:
        for same in groups:
            for _, batch in groupby(clock.rows(deploy(params, backbone, same[0]), same), key=lambda row: row["batch"]):
                rows += [row | {"backbone": backbone, "seed": seed} for row in batch]
                bar.update()
    out = SPEEDS / name / f"{backbone}-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out / "rows.csv", index=False)
    provenance.write(
        out, stage="speed", config={"speed": params.speed}, seed=seed, data_sha256=data_sha256(DATA),
        device=artifact.device_of(params), started=started,
    )  # fmt: skip
