"""Every method at every setting: quality and counted layers on the test rows, predictions kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, product
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from dlskip import files, provenance
from dlskip.config import Params
from dlskip.data.batches import Encoded, encode
from dlskip.data.io import DATA, Example, prepared_sha256, read_split
from dlskip.data.tasks import TASKS
from dlskip.evaluation.deployed import Deployed, deploy
from dlskip.evaluation.records import Case, Outcome, Records, Split
from dlskip.inference.beams import beam_search
from dlskip.inference.decode import Decoded, decode
from dlskip.methods import random, registry
from dlskip.methods.base import Method
from dlskip.methods.settings import PER_SAMPLE, BatchRule, PlannedSetting, batch_rules
from dlskip.models import artifact

EVALUATIONS = Path("evaluations")


class Evaluator:
    """Runs a method's settings over tasks.

    Learned methods are run on validation rows too, each row deciding for itself: what is chosen among their settings
    is chosen there, and not on the rows that are reported.

    Args:
        params: All parameters.
        method: The method.
        tasks: What it is evaluated on.
        records: Collects what is measured.
        seed: Of the random control.
    """

    def __init__(self, params: Params, method: Method, tasks: Sequence[str], records: Records, seed: int) -> None:
        self.params = params
        self.method = method
        self.tasks = tasks
        self.records = records
        self.seed = seed
        reported = params.evaluate.split
        ours = method.name == "ours"
        rules: list[BatchRule] = batch_rules(params) if ours else [PER_SAMPLE]
        self.rules: dict[Split, list[BatchRule]] = {"validation": [PER_SAMPLE]} if method.learned else {}
        self.rules |= {reported: rules}
        self.control = ours and params.evaluate.random_control

    def run(self, deployed: Deployed, planned: Sequence[PlannedSetting], bar: Any) -> None:
        """All settings of one set of weights."""
        for task, split in product(self.tasks, self.rules):
            examples = self._examples(task, split)
            encoded = encode(examples, deployed.tokenizer, 2**20)
            unskipped: Outcome | None = None  # with nothing skipped no batch rule has a say: one pass serves all
            for case in self._cases(planned, task, split):
                known = unskipped if case.setting.full_depth else None
                outcome = known or self._decode(deployed, task, encoded, case)
                if case.setting.full_depth:
                    unskipped = outcome
                self.records.score(task, examples, deployed.tokenizer, case, outcome)
                bar.update()
                if self._has_control(case):
                    chance = self._chance(case, outcome)
                    outcome = self._decode(deployed, task, encoded, chance)
                    self.records.score(task, examples, deployed.tokenizer, chance, outcome)
                    bar.update()

    def steps(self, planned: Sequence[PlannedSetting]) -> int:
        """Passes over a task that ``run`` makes, for the progress bar."""
        skipping = sum(not p.setting.full_depth for p in planned)
        return len(self.tasks) * (len(planned) * sum(map(len, self.rules.values())) + skipping * self.control)

    def _examples(self, task: str, split: Split) -> list[Example]:
        """A split's rows; of those that settings are chosen on, no more than are reported."""
        reported = self.params.evaluate.split
        rows = read_split(DATA, task, split)
        return rows if split == reported else rows[: len(read_split(DATA, task, reported))]

    def _cases(self, planned: Iterable[PlannedSetting], task: str, split: Split) -> Iterator[Case]:
        for batch in self.rules[split]:
            size = self.params.evaluate.per_sample_batch
            for p in planned:
                rows = size if batch == PER_SAMPLE or p.setting.full_depth else int(batch)
                yield Case(self.method.name, p.setting, batch, split, rows, self.method.policy(p, task, batch))

    def _has_control(self, case: Case) -> bool:
        wanted = self.control and case.batch == PER_SAMPLE and not case.setting.full_depth
        return wanted and case.split == self.params.evaluate.split

    def _chance(self, case: Case, outcome: Outcome) -> Case:
        """Random masks at the learned policy's measured rates, same weights, same batches."""
        skips = outcome.skips()
        policy = random.METHOD.matching(skips["skip_prefill"], skips["skip_decode"], self.seed)
        return replace(case, method=random.METHOD.name, policy=policy)

    def _decode(self, deployed: Deployed, task: str, encoded: list[Encoded], case: Case) -> Outcome:
        definition = TASKS[task]
        tokenizer = deployed.tokenizer
        answers = None
        longest = self.params.evaluate.max_new_tokens
        if definition.kind == "nlu":
            answers = [tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in definition.labels]
            longest = max(map(len, answers)) + 1
        order = list(range(len(encoded)))
        if case.batch == PER_SAMPLE or case.setting.full_depth:  # rows do not decide together: by length, to pad less
            order.sort(key=lambda row: len(encoded[row].prompt))
        eos, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
        decoded: dict[int, Decoded] = {}
        with deployed.skipper.using(case.policy):
            if definition.kind == "mt" and self.params.evaluate.beams > 1:
                found = beam_search(
                    deployed.model, deployed.skipper, [e.prompt for e in encoded], beams=self.params.evaluate.beams,
                    eos=eos, pad=pad, max_new_tokens=longest,
                )  # fmt: skip
                return Outcome(found)
            for start in range(0, len(order), case.size):
                rows = order[start : start + case.size]
                found = decode(
                    deployed.model, deployed.skipper, [encoded[row].prompt for row in rows],
                    eos=eos, pad=pad, max_new_tokens=longest, answers=answers,
                )  # fmt: skip
                decoded |= zip(rows, found, strict=True)
        return Outcome([decoded[row] for row in range(len(encoded))])


def evaluate(params: Params, name: str, kind: Literal["nlu", "mt"], backbone: str, seed: int) -> None:
    """Evaluates one method on one kind of task and writes ``evaluations/<method>/<backbone>-<seed>/<kind>/``."""
    started, data = time.time(), prepared_sha256(DATA)
    tasks = params.prepare.nlu if kind == "nlu" else params.prepare.mt
    method = registry.method(name)
    settings = method.settings(params, backbone, seed)
    records = Records(backbone, seed, params.evaluate.split, params.evaluate.traces)
    runner = Evaluator(params, method, tasks, records, seed)
    groups = [list(same) for _, same in groupby(settings, key=lambda p: p.weights)]
    with tqdm(total=sum(map(runner.steps, groups)), desc=f"evaluate {name} {kind}", mininterval=2.0) as bar:
        for same in groups if tasks else []:
            runner.run(deploy(params, backbone, same[0]), same, bar)
    out = EVALUATIONS / name / f"{backbone}-{seed}" / kind
    with files.aside(out) as new:
        records.write(new)
        provenance.write(
            new, stage="evaluate", config={"evaluate": params.evaluate, "model": params.model}, seed=seed,
            data_sha256=data, device=artifact.device_of(params), started=started,
        )  # fmt: skip
