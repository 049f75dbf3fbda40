"""Every method at every setting on the test rows: quality, layers counted, time measured; predictions kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from dlskip import artifact, provenance, tuning
from dlskip.batches import Encoded, encode
from dlskip.config import Params
from dlskip.data.io import DATA, Example, data_sha256, read_split
from dlskip.data.tasks import TASKS
from dlskip.decode import Decoded, decode
from dlskip.metrics import mt_metrics, nlu_metrics, parse_answer
from dlskip.skip import FullDepth, Policy, RandomSkip, Skipper, Threshold, skipper_of

ROOT = Path("evaluations")
FULL = "full"  # the setting in which nothing is skipped
ROW = ["method", "backbone", "seed", "setting", "batch", "task", "metric", "value", "skip_ratio", "n"]


@dataclass(frozen=True)
class Setting:
    """One way to run a model over a task.

    Args:
        method: Name in the results: ours, vanilla or random.
        name: ``full`` or the threshold.
        batch: ``1``, ``8``, ``16`` (one decision for the batch beyond 1) or ``per_sample``.
        size: Rows per batch.
        policy: Who decides.
    """

    method: str
    name: str
    batch: str
    size: int
    policy: Policy


@dataclass
class Outcome:
    """One setting's run over one task."""

    decoded: list[Decoded]
    seconds: float

    def skips(self) -> dict[str, float]:
        """Counted shares of layer applications skipped: all tokens, prompts, decoded tokens."""
        skipped_p, all_p, skipped_d, all_d = np.sum([d.layer_tokens() for d in self.decoded], axis=0)
        return {
            "skip_ratio": float((skipped_p + skipped_d) / (all_p + all_d)),
            "skip_prefill": float(skipped_p / all_p),
            "skip_decode": float(skipped_d / all_d) if all_d else 0.0,
        }


class Evaluator:
    """Runs settings over tasks and collects rows, per-layer rates, predictions and traces.

    Args:
        params: All parameters.
        model: A model ready to run, with ``skipper`` or without skipping (None).
        tokenizer: Its tokenizer.
        cell: (method, backbone, seed) of the results.
    """

    def __init__(
        self, params: Params, model: nn.Module, skipper: Skipper | None, tokenizer: PreTrainedTokenizerBase,
        cell: tuple[str, str, int],
    ) -> None:  # fmt: skip
        self.params, self.model, self.skipper, self.tokenizer = params, model, skipper, tokenizer
        self.method, self.backbone, self.seed = cell
        self.rows: list[dict[str, Any]] = []
        self.layers: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.traces: list[dict[str, Any]] = []
        self.signatures: dict[str, dict[str, str]] = {}

    def run(self) -> None:
        """All tasks, all settings; tasks outermost, so that compared settings are timed within seconds of another."""
        config = self.params.evaluate
        tasks = [*self.params.prepare.nlu, *self.params.prepare.mt]
        per_task = (1 + len(config.thresholds)) * len(config.batches) + config.random_control * len(config.thresholds)
        bar = tqdm(
            total=len(tasks) * (per_task if self.skipper else 1), desc=f"evaluate {self.method}", mininterval=2.0
        )
        for task in tasks:
            examples = read_split(DATA, task, config.split)
            encoded = encode(examples, self.tokenizer, 2**20)
            full: dict[str, tuple[Outcome, float]] = {}
            unskipped: dict[int, Outcome] = {}  # by rows per batch: nothing skipped is the same under every batch rule
            self._decode(task, encoded[:1], Setting(self.method, FULL, "1", 1, FullDepth()))  # warm-up
            for setting in self._settings():
                same = unskipped.get(setting.size) if setting.name == FULL else None
                outcome = self._measure(task, examples, encoded, setting, same)
                if setting.name == FULL:
                    unskipped[setting.size] = outcome
                self._time(task, encoded, setting, outcome, full)
                bar.update()
                if self.skipper and config.random_control and setting.batch == "per_sample" and setting.name != FULL:
                    control = self._control(setting, outcome)
                    self._time(task, encoded, control, self._measure(task, examples, encoded, control), full)
                    bar.update()
        bar.close()

    def _settings(self) -> Iterator[Setting]:
        config = self.params.evaluate
        if self.skipper is None:
            yield Setting(self.method, FULL, "per_sample", config.per_sample_batch, FullDepth())
            return
        for batch in config.batches:
            size = config.per_sample_batch if batch == "per_sample" else batch
            yield Setting(self.method, FULL, str(batch), size, FullDepth())
            for threshold in config.thresholds:
                policy = Threshold(threshold, "per_sample" if batch in (1, "per_sample") else "majority")
                yield Setting(self.method, str(threshold), str(batch), size, policy)

    def _control(self, setting: Setting, outcome: Outcome) -> Setting:
        """Random masks at the learned policy's measured rates, same weights, same batches."""
        skips = outcome.skips()
        policy = RandomSkip(skips["skip_prefill"], skips["skip_decode"], seed=self.seed)
        return Setting("random", setting.name, "per_sample", setting.size, policy)

    def _measure(
        self, task: str, examples: list[Example], encoded: list[Encoded], setting: Setting, same: Outcome | None = None
    ) -> Outcome:
        """Runs and scores one setting; ``same`` is the outcome of another with the same policy and batches."""
        outcome = same or self._decode(task, encoded, setting)
        self._score(task, examples, setting, outcome)
        return outcome

    def _decode(
        self, task: str, encoded: list[Encoded], setting: Setting, lengths: Sequence[int] | None = None
    ) -> Outcome:
        definition = TASKS[task]
        answers = None
        longest = self.params.evaluate.max_new_tokens
        if definition.kind == "nlu":
            answers = [
                self.tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in definition.labels
            ]
            longest = max(map(len, answers)) + 1
        decoded: list[Decoded] = []
        began = time.perf_counter()
        with self.skipper.using(setting.policy) if self.skipper else nullcontext():
            for start in range(0, len(encoded), setting.size):
                chosen = slice(start, start + setting.size)
                decoded += decode(
                    self.model, self.skipper, [e.prompt for e in encoded[chosen]], eos=int(self.tokenizer.eos_token_id),
                    pad=int(self.tokenizer.pad_token_id), max_new_tokens=longest, answers=answers,
                    lengths=None if lengths is None else lengths[chosen],
                )  # fmt: skip
        return Outcome(decoded, time.perf_counter() - began)

    def _score(self, task: str, examples: list[Example], setting: Setting, outcome: Outcome) -> None:
        definition = TASKS[task]
        texts = [str(self.tokenizer.decode(d.tokens, skip_special_tokens=True)) for d in outcome.decoded]
        parsed = (
            [parse_answer(t, definition.labels) for t in texts] if definition.kind == "nlu" else [None] * len(texts)
        )
        if definition.kind == "nlu":
            gold = [e.label for e in examples if e.label is not None]
            scores = nlu_metrics(parsed, gold, len(definition.labels), definition.metrics, definition.positive)
        else:
            references = [e.target.strip() for e in examples]
            scores, signatures = mt_metrics([t.strip() for t in texts], references, definition.languages[1])
            self.signatures[task] = signatures
        for metric, value in (scores | {k: v for k, v in outcome.skips().items() if k != "skip_ratio"}).items():
            self._row(task, setting, outcome, metric, value)
        key = {"method": setting.method, "setting": setting.name, "batch": setting.batch, "task": task}
        for example, text, answer, d in zip(examples, texts, parsed, outcome.decoded, strict=True):
            self.predictions.append(
                key
                | {
                    "id": example.id, "prediction": text.strip(), "answer": answer, "gold": example.target.strip(),
                    "skipped": "".join("01"[int(not r)] for r in d.runs[0].tolist()),
                    "layers_run": float(np.mean([int(r.sum()) for r in d.runs])),
                }
            )  # fmt: skip
        skipped = np.stack([~d.runs[0].numpy() for d in outcome.decoded]).astype(float)  # (N, L)
        cell = {"backbone": self.backbone, "seed": self.seed}
        for layer, (mean, std) in enumerate(zip(skipped.mean(0), skipped.std(0), strict=True)):
            self.layers.append(key | cell | {"layer": layer, "skip_rate": mean, "skip_std": std})
        if definition.kind == "mt" and setting.batch == "1":
            self._trace(setting, examples, outcome)

    def _trace(self, setting: Setting, examples: list[Example], outcome: Outcome) -> None:
        for example, d in list(zip(examples, outcome.decoded, strict=True))[: self.params.evaluate.traces]:
            pieces = ["<prompt>", *(self.tokenizer.decode([t]) for t in d.tokens)][: len(d.runs)]
            self.traces.append(
                {
                    "task": example.task, "setting": setting.name, "prompt": example.prompt,
                    "reference": example.target.strip(), "output": self.tokenizer.decode(d.tokens),
                    "tokens": pieces, "ran": [r.int().tolist() for r in d.runs],
                }
            )  # fmt: skip

    def _time(
        self, task: str, encoded: list[Encoded], setting: Setting, outcome: Outcome,
        full: dict[str, tuple[Outcome, float]],
    ) -> None:  # fmt: skip
        """Speed against full depth in the same batches.

        Translations of different settings differ in length: some rows (at least a batch) are decoded once more, each
        to the length it has at full depth. Answers take a token or two, and are timed as they are.
        """
        self._row(task, setting, outcome, "seconds_per_example", outcome.seconds / len(outcome.decoded))
        if self.skipper is None:
            return
        timed, reference = outcome, full.get(setting.batch, (outcome, 0.0))[0]
        if TASKS[task].kind == "mt":
            rows = encoded[: max(self.params.evaluate.timing_rows, setting.size)]
            timed = self._decode(task, rows, setting, [len(d.runs) for d in reference.decoded])
        if setting.name == FULL:
            full[setting.batch] = (outcome, timed.seconds)
        else:
            self._row(task, setting, timed, "speedup", full[setting.batch][1] / timed.seconds)

    def _row(self, task: str, setting: Setting, outcome: Outcome, metric: str, value: float) -> None:
        values: Sequence[Any] = (
            setting.method, self.backbone, self.seed, setting.name, setting.batch, task, metric, value,
            outcome.skips()["skip_ratio"], len(outcome.decoded),
        )  # fmt: skip
        self.rows.append(dict(zip(ROW, values, strict=True)))


def evaluate(params: Params, method: str, backbone: str, seed: int) -> None:
    """Evaluates one method's artifact and writes ``evaluations/<method>/<backbone>-<seed>/``."""
    started = time.time()
    source = artifact.directory(method, backbone, seed)
    skipping = (source / "skip.safetensors").is_file()
    model, tokenizer = artifact.build(
        params, backbone, weights=source, skip=source if skipping else None, skipping=skipping
    )
    model = tuning.merged(model)
    skipper = skipper_of(model) if skipping else None
    if skipper is not None:
        skipper.cast_adapters(next(model.parameters()).dtype)
    runner = Evaluator(params, model, skipper, tokenizer, (method, backbone, seed))
    runner.run()
    out = ROOT / method / f"{backbone}-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(runner.rows, columns=ROW).to_csv(out / "rows.csv", index=False)
    pd.DataFrame(runner.layers).to_csv(out / "layers.csv", index=False)
    lines = (json.dumps(p, ensure_ascii=False) for p in runner.predictions)
    (out / "predictions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "traces.json").write_text(json.dumps(runner.traces, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "signatures.json").write_text(json.dumps(runner.signatures, indent=1) + "\n")
    provenance.write(
        out, stage="evaluate", config={"evaluate": params.evaluate, "model": params.model}, seed=seed,
        data_sha256=data_sha256(DATA), device=artifact.device_of(params), started=started,
    )  # fmt: skip
