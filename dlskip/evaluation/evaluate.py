"""Every method at every setting on the test rows: quality and counted layers; predictions kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from dlskip import provenance
from dlskip.config import Params
from dlskip.data.batches import Encoded, encode
from dlskip.data.io import DATA, data_sha256, read_split
from dlskip.data.tasks import TASKS
from dlskip.evaluation.deployed import Deployed, deploy
from dlskip.evaluation.records import Case, Outcome, Records
from dlskip.inference.decode import Decoded, decode
from dlskip.methods import registry
from dlskip.methods.base import FULL, Method, Setting
from dlskip.models import artifact
from dlskip.skip import RandomSkip

ROOT = Path("evaluations")


class Evaluator:
    """Runs a method's settings over tasks.

    Args:
        params: All parameters.
        method: The method.
        tasks: What it is evaluated on.
        records: Collects what is measured.
        seed: Of the random control.
    """

    def __init__(self, params: Params, method: Method, tasks: Sequence[str], records: Records, seed: int) -> None:
        self.params, self.method, self.tasks, self.records, self.seed = params, method, tasks, records, seed
        self.batches = [str(b) for b in params.evaluate.batches] if method.name == "ours" else ["per_sample"]
        self.control = method.name == "ours" and params.evaluate.random_control

    def run(self, deployed: Deployed, settings: Sequence[Setting], bar: Any) -> None:
        """All settings of one set of weights."""
        for task in self.tasks:
            examples = read_split(DATA, task, self.params.evaluate.split)
            encoded = encode(examples, deployed.tokenizer, 2**20)
            unskipped: Outcome | None = None  # with nothing skipped no batch rule has a say: one pass serves all
            for case in self._cases(settings, task):
                known = unskipped if case.setting == FULL else None
                outcome = known or self._decode(deployed, task, encoded, case)
                if case.setting == FULL:
                    unskipped = outcome
                self.records.score(task, examples, deployed.tokenizer, case, outcome)
                bar.update()
                if self.control and case.batch == "per_sample" and case.setting != FULL:
                    chance = self._chance(case, outcome)
                    outcome = self._decode(deployed, task, encoded, chance)
                    self.records.score(task, examples, deployed.tokenizer, chance, outcome)
                    bar.update()

    def steps(self, settings: Sequence[Setting]) -> int:
        """Passes over a task that ``run`` makes, for the progress bar."""
        skipping = sum(s.name != FULL for s in settings)
        return len(self.tasks) * (len(settings) * len(self.batches) + skipping * self.control)

    def _cases(self, settings: Iterable[Setting], task: str) -> Iterator[Case]:
        for batch in self.batches:
            size = self.params.evaluate.per_sample_batch
            for s in settings:
                rows = size if batch == "per_sample" or s.name == FULL else int(batch)
                yield Case(self.method.name, s.name, batch, rows, self.method.policy(s, task, batch))

    def _chance(self, case: Case, outcome: Outcome) -> Case:
        """Random masks at the learned policy's measured rates, same weights, same batches."""
        skips = outcome.skips()
        policy = RandomSkip(skips["skip_prefill"], skips["skip_decode"], seed=self.seed)
        return Case("random", case.setting, "per_sample", case.size, policy)

    def _decode(self, deployed: Deployed, task: str, encoded: list[Encoded], case: Case) -> Outcome:
        definition, tokenizer = TASKS[task], deployed.tokenizer
        answers = None
        longest = self.params.evaluate.max_new_tokens
        if definition.kind == "nlu":
            answers = [tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in definition.labels]
            longest = max(map(len, answers)) + 1
        order = list(range(len(encoded)))
        if case.batch == "per_sample" or case.setting == FULL:  # rows do not heed each other: by length, to pad less
            order.sort(key=lambda row: len(encoded[row].prompt))
        decoded: dict[int, Decoded] = {}
        with deployed.skipper.using(case.policy) if deployed.skipper else nullcontext():
            for start in range(0, len(order), case.size):
                rows = order[start : start + case.size]
                found = decode(
                    deployed.model, deployed.skipper, [encoded[row].prompt for row in rows],
                    eos=int(tokenizer.eos_token_id), pad=int(tokenizer.pad_token_id), max_new_tokens=longest,
                    answers=answers,
                )  # fmt: skip
                decoded |= zip(rows, found, strict=True)
        return Outcome([decoded[row] for row in range(len(encoded))])


def evaluate(params: Params, name: str, kind: Literal["nlu", "mt"], backbone: str, seed: int) -> None:
    """Evaluates one method on one kind of task and writes ``evaluations/<method>/<backbone>-<seed>/<kind>/``."""
    started, tasks = time.time(), params.prepare.nlu if kind == "nlu" else params.prepare.mt
    method = registry.method(name)
    settings = method.settings(params, backbone, seed)
    records = Records(backbone, seed, params.evaluate.traces)
    runner = Evaluator(params, method, tasks, records, seed)
    groups = [list(same) for _, same in groupby(settings, key=lambda s: s.weights)]
    with tqdm(total=sum(map(runner.steps, groups)), desc=f"evaluate {name} {kind}", mininterval=2.0) as bar:
        for same in groups if tasks else []:
            runner.run(deploy(params, backbone, same[0]), same, bar)
    out = ROOT / name / f"{backbone}-{seed}" / kind
    records.write(out)
    provenance.write(
        out, stage="evaluate", config={"evaluate": params.evaluate, "model": params.model}, seed=seed,
        data_sha256=data_sha256(DATA), device=artifact.device_of(params), started=started,
    )  # fmt: skip
