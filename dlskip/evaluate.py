"""Every method at every setting on the test rows: quality, layers counted, time measured; predictions kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from dlskip import artifact, provenance, speed, tuning
from dlskip.batches import Encoded, encode
from dlskip.config import Params
from dlskip.data.io import DATA, Example, data_sha256, read_split
from dlskip.data.tasks import TASKS
from dlskip.decode import decode
from dlskip.methods import registry
from dlskip.methods.base import FULL, Method, Setting
from dlskip.records import Case, Outcome, Records
from dlskip.skip import FullDepth, Policy, RandomSkip, Skipper, skipper_of

ROOT = Path("evaluations")
TIMING = "timing"  # the "task" of the speed measurements


@dataclass(frozen=True)
class Loaded:
    """A model ready to run; ``skipper`` is None for one that never skips."""

    model: nn.Module
    skipper: Skipper | None
    tokenizer: PreTrainedTokenizerBase


class Evaluator:
    """Runs a method's settings over all tasks.

    Args:
        params: All parameters.
        method: The method.
        records: Collects what is measured.
        seed: Of the random control.
    """

    def __init__(self, params: Params, method: Method, records: Records, seed: int) -> None:
        self.params, self.method, self.records, self.seed = params, method, records, seed
        self.tasks = [*params.prepare.nlu, *params.prepare.mt]
        self.batches = [str(b) for b in params.evaluate.batches] if method.name == "ours" else ["per_sample"]
        self.control = method.name == "ours" and params.evaluate.random_control

    def run(self, loaded: Loaded, settings: Sequence[Setting], bar: Any) -> None:
        """All settings of one set of weights; tasks outermost, so that what is compared is timed within seconds."""
        encoded = {t: encode(self._examples(t), loaded.tokenizer, 2**20) for t in self.tasks}
        for task in self.tasks:
            self._decode(loaded, task, encoded[task][:1], FullDepth(), 1)  # warm-up
            full: dict[str, tuple[Outcome, float]] = {}
            unskipped: dict[int, Outcome] = {}  # by rows per batch: nothing skipped is the same under every batch rule
            for case in self._cases(settings, task):
                same = unskipped.get(case.size) if case.setting == FULL else None
                outcome = same or self._decode(loaded, task, encoded[task], case.policy, case.size)
                if case.setting == FULL:
                    unskipped[case.size] = outcome
                self._keep(loaded, task, encoded[task], case, outcome, full)
                bar.update()
                if self.control and case.batch == "per_sample" and case.setting != FULL:
                    chance = self._chance(case, outcome)
                    found = self._decode(loaded, task, encoded[task], chance.policy, chance.size)
                    self._keep(loaded, task, encoded[task], chance, found, full)
                    bar.update()
        if self.method.timed:
            self._speed(loaded, settings, {task: [e.prompt for e in rows] for task, rows in encoded.items()})

    def steps(self, settings: Sequence[Setting]) -> int:
        """Passes over a task that ``run`` makes, for the progress bar."""
        skipping = sum(s.name != FULL for s in settings)
        return len(self.tasks) * (len(settings) * len(self.batches) + skipping * self.control)

    def _examples(self, task: str) -> list[Example]:
        return read_split(DATA, task, self.params.evaluate.split)

    def _size(self, batch: str) -> int:
        return self.params.evaluate.per_sample_batch if batch == "per_sample" else int(batch)

    def _cases(self, settings: Iterable[Setting], task: str) -> Iterator[Case]:
        for batch in self.batches:
            for s in settings:
                policy = self.method.policy(s, task, batch)
                yield Case(self.method.name, s.name, batch, self._size(batch), policy)

    def _chance(self, case: Case, outcome: Outcome) -> Case:
        """Random masks at the learned policy's measured rates, same weights, same batches."""
        skips = outcome.skips()
        policy = RandomSkip(skips["skip_prefill"], skips["skip_decode"], seed=self.seed)
        return Case("random", case.setting, "per_sample", case.size, policy)

    def _decode(
        self, loaded: Loaded, task: str, encoded: list[Encoded], policy: Policy, size: int,
        lengths: Sequence[int] | None = None,
    ) -> Outcome:  # fmt: skip
        definition, tokenizer = TASKS[task], loaded.tokenizer
        answers = None
        longest = self.params.evaluate.max_new_tokens
        if definition.kind == "nlu":
            answers = [tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in definition.labels]
            longest = max(map(len, answers)) + 1
        decoded = []
        began = time.perf_counter()
        with loaded.skipper.using(policy) if loaded.skipper else nullcontext():
            for start in range(0, len(encoded), size):
                chosen = slice(start, start + size)
                decoded += decode(
                    loaded.model, loaded.skipper, [e.prompt for e in encoded[chosen]],
                    eos=int(tokenizer.eos_token_id), pad=int(tokenizer.pad_token_id), max_new_tokens=longest,
                    answers=answers, lengths=None if lengths is None else lengths[chosen],
                )  # fmt: skip
        return Outcome(decoded, time.perf_counter() - began)

    def _keep(
        self, loaded: Loaded, task: str, encoded: list[Encoded], case: Case, outcome: Outcome,
        full: dict[str, tuple[Outcome, float]],
    ) -> None:  # fmt: skip
        self.records.score(task, self._examples(task), loaded.tokenizer, case, outcome)
        self._time(loaded, task, encoded, case, outcome, full)

    def _time(
        self, loaded: Loaded, task: str, encoded: list[Encoded], case: Case, outcome: Outcome,
        full: dict[str, tuple[Outcome, float]],
    ) -> None:  # fmt: skip
        """Speed of our settings against full depth in the same batches.

        Translations of different settings differ in length: some rows (at least a batch) are decoded once more, each
        to the length it has at full depth. Answers take a token or two, and are timed as they are.
        """
        self.records.row(task, case, outcome, "seconds_per_example", outcome.seconds / len(outcome.decoded))
        if case.setting != FULL and case.batch not in full:
            return  # this method's weights are never run unskipped: its speed is measured by `_speed` alone
        timed, reference = outcome, full.get(case.batch, (outcome, 0.0))[0]
        if TASKS[task].kind == "mt" and loaded.skipper is not None:
            rows = encoded[: max(self.params.evaluate.timing_rows, case.size)]
            timed = self._decode(
                loaded, task, rows, case.policy, case.size, [len(d.runs) for d in reference.decoded[: len(rows)]]
            )
        if case.setting == FULL:
            full[case.batch] = (outcome, timed.seconds)
        else:
            self.records.row(task, case, timed, "speedup", full[case.batch][1] / timed.seconds)

    def _speed(self, loaded: Loaded, settings: Sequence[Setting], prompts: dict[str, list[list[int]]]) -> None:
        """Every setting against full depth: prefill of understanding prompts, decoding of translations.

        A policy skips other shares on other tasks, so each phase is timed on the tasks that mostly consist of it.
        """
        config = self.params.evaluate.speed
        answers, texts = ([t for t in self.tasks if TASKS[t].kind == kind] or self.tasks for kind in ("nlu", "mt"))
        sizes = {str(b): b for b in config.batches}
        if self.method.name == "ours":  # elsewhere every row of a batch skips alike, or batches are not compared
            sizes["per_sample"] = self._size("per_sample")
        run = [s for s in settings if s.name != FULL]
        for batch, size in sizes.items():

            def timed(tasks: list[str], tokens: int, batch: str = batch, size: int = size) -> list[speed.Timing]:
                policies = [FullDepth(), *(self.method.policy(s, tasks[-1], batch) for s in run)]
                return speed.measure(
                    loaded.model, loaded.skipper, policies, speed.mixed([prompts[t] for t in tasks], size),
                    tokens=tokens, repeats=config.repeats, pad=int(loaded.tokenizer.pad_token_id),
                )  # fmt: skip

            both = zip(timed(answers, 0), timed(texts, config.tokens), strict=True)
            timings = [prefill.followed_by(decode) for prefill, decode in both]
            for name, timing in zip([FULL, *(s.name for s in run)], timings, strict=True):
                case = Case(self.method.name, name, batch, size, FullDepth())
                self.records.timing(TIMING, case, timing, timings[0])


def _load(params: Params, backbone: str, setting: Setting) -> Loaded:
    """The weights of a setting, as they are deployed: LoRA folded in, adapters in the backbone's dtype."""
    source = Path(setting.weights)
    skipping = setting.adapters or setting.layers > 0
    params = artifact.as_trained(params, source) if setting.adapters else params
    model, tokenizer = artifact.build(
        params, backbone, weights=source, skip=source if setting.adapters else None, skipping=skipping,
        adapters=setting.adapters,
    )  # fmt: skip
    model = tuning.merged(model)
    skipper = skipper_of(model) if skipping else None
    if skipper is not None:
        skipper.cast_adapters(next(model.parameters()).dtype)
    return Loaded(model, skipper, tokenizer)


def evaluate(params: Params, name: str, backbone: str, seed: int) -> None:
    """Evaluates one method and writes ``evaluations/<method>/<backbone>-<seed>/``."""
    started = time.time()
    method = registry.method(name)
    settings = method.settings(params, backbone, seed)
    records = Records(backbone, seed, params.evaluate.traces)
    runner = Evaluator(params, method, records, seed)
    groups = [list(same) for _, same in groupby(settings, key=lambda s: s.weights)]
    with tqdm(total=sum(map(runner.steps, groups)), desc=f"evaluate {name}", mininterval=2.0) as bar:
        for same in groups:
            runner.run(_load(params, backbone, same[0]), same, bar)
    out = ROOT / name / f"{backbone}-{seed}"
    records.write(out)
    provenance.write(
        out, stage="evaluate", config={"evaluate": params.evaluate, "model": params.model}, seed=seed,
        data_sha256=data_sha256(DATA), device=artifact.device_of(params), started=started,
    )  # fmt: skip
