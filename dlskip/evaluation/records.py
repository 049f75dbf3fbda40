"""What an evaluation leaves: tidy rows, per-layer skip rates, predictions and traces.

In every file a setting is the three columns or keys ``threshold``, ``share`` and ``price``, empty where not set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from dlskip.data.io import Example
from dlskip.data.tasks import TASKS
from dlskip.evaluation.columns import LAYERS, RESULTS
from dlskip.evaluation.metrics import mt_metrics, nlu_metrics, parse_answer
from dlskip.inference.decode import Decoded
from dlskip.methods.settings import BatchRule, Setting
from dlskip.skip import Policy

Split = Literal["test", "validation"]


@dataclass(frozen=True)
class Case:
    """One way to run a model over a task.

    Args:
        method: Name in the results.
        setting: Full depth, or a threshold, share or price.
        batch: ``1``, ``8``, ``16`` (one decision for the batch beyond 1) or ``per_sample``.
        split: Whose rows are answered.
        size: Rows per batch.
        policy: Who decides.
    """

    method: str
    setting: Setting
    batch: BatchRule
    split: Split
    size: int
    policy: Policy


@dataclass
class Outcome:
    """One case's run over one task."""

    decoded: list[Decoded]

    def skips(self) -> dict[str, float]:
        """Counted shares of layer applications skipped: all tokens, prompts, decoded tokens."""
        skipped_p, all_p, skipped_d, all_d = np.sum([d.layer_tokens() for d in self.decoded], axis=0)
        return {
            "skip_ratio": float((skipped_p + skipped_d) / (all_p + all_d)),
            "skip_prefill": float(skipped_p / all_p),
            "skip_decode": float(skipped_d / all_d) if all_d else 0.0,
        }


class Records:
    """Collects the measurements of one method's evaluation and writes them.

    Args:
        backbone, seed: Of the run.
        split: The split whose predictions, layer rates and traces are kept; rows are kept of every split.
        traces: Sentences per translation task whose per-token depth is kept.
    """

    def __init__(self, backbone: str, seed: int, split: Split, traces: int) -> None:
        self.backbone = backbone
        self.seed = seed
        self.split = split
        self.traced = traces
        self.rows: list[dict[str, Any]] = []
        self.layers: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.traces: list[dict[str, Any]] = []
        self.signatures: dict[str, dict[str, str]] = {}

    def score(
        self, task: str, examples: list[Example], tokenizer: PreTrainedTokenizerBase, case: Case, outcome: Outcome
    ) -> None:
        """Quality, skipped shares, per-layer rates, predictions and traces of one case."""
        definition = TASKS[task]
        texts = [str(tokenizer.decode(d.tokens, skip_special_tokens=True)) for d in outcome.decoded]
        parsed: list[int | None] = [None] * len(texts)
        if definition.kind == "nlu":
            parsed = [parse_answer(t, definition.labels) for t in texts]
            gold = [e.label for e in examples if e.label is not None]
            scores = nlu_metrics(parsed, gold, len(definition.labels), definition.metrics, definition.positive)
        else:
            references = [e.target.strip() for e in examples]
            scores, signatures = mt_metrics([t.strip() for t in texts], references, definition.languages[1])
            self.signatures[task] = signatures
        for metric, value in (scores | {k: v for k, v in outcome.skips().items() if k != "skip_ratio"}).items():
            self._row(task, case, outcome, metric, value)
        if case.split != self.split:
            return
        key = {"method": case.method, **case.setting.columns(), "batch": case.batch, "task": task}
        for example, text, answer, d in zip(examples, texts, parsed, outcome.decoded, strict=True):
            self.predictions.append(
                key
                | {
                    "id": example.id, "prediction": text.strip(), "answer": answer, "gold": example.target.strip(),
                    "skipped": "".join("01"[int(not r)] for r in d.runs[0].tolist()),
                    "layers_run": float(np.mean([int(r.sum()) for r in d.runs])),
                }
            )  # fmt: skip
        self._layers(key, outcome)
        if definition.kind == "mt" and case.batch == "1":
            self._trace(case, tokenizer, examples, outcome)

    def _layers(self, key: dict[str, Any], outcome: Outcome) -> None:
        """Rate and spread of each layer's 0/1 skip: over the prompts' decisions, and over all decoded tokens'."""
        decisions = {
            "prompt": [d.runs[0] for d in outcome.decoded],
            "decode": [runs for d in outcome.decoded for runs in d.runs[1:]],
        }
        for phase, runs in decisions.items():
            if not runs:
                continue
            row = key | {"backbone": self.backbone, "seed": self.seed, "phase": phase}
            skipped = (~torch.stack(runs)).double()  # (decisions, L)
            spread = skipped.std(0, correction=0)
            for layer, (mean, std) in enumerate(zip(skipped.mean(0).tolist(), spread.tolist(), strict=True)):
                values = {"skip_rate": round(mean, 6), "skip_std": round(std, 6)}
                self.layers.append(row | {"layer": layer} | values)

    def _trace(self, case: Case, tokenizer: PreTrainedTokenizerBase, examples: list[Example], outcome: Outcome) -> None:
        for example, d in list(zip(examples, outcome.decoded, strict=True))[: self.traced]:
            pieces = ["<prompt>", *(tokenizer.decode([t]) for t in d.tokens)][: len(d.runs)]
            self.traces.append(
                {
                    "task": example.task, **case.setting.columns(), "prompt": example.prompt,
                    "reference": example.target.strip(), "output": tokenizer.decode(d.tokens),
                    "tokens": pieces, "ran": [r.int().tolist() for r in d.runs],
                }
            )  # fmt: skip

    def _row(self, task: str, case: Case, outcome: Outcome, metric: str, value: float) -> None:
        self.rows.append(
            {
                "method": case.method, "backbone": self.backbone, "seed": self.seed, **case.setting.columns(),
                "batch": case.batch, "split": case.split, "task": task, "metric": metric, "value": value,
                "skip_ratio": outcome.skips()["skip_ratio"], "n": len(outcome.decoded),
            }
        )  # fmt: skip

    def write(self, out: Path) -> None:
        """Writes ``rows.csv``, ``layers.csv``, ``predictions.jsonl``, ``traces.json`` and ``signatures.json``."""
        out.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(self.rows, columns=RESULTS).to_csv(out / "rows.csv", index=False)
        pd.DataFrame(self.layers, columns=LAYERS).to_csv(out / "layers.csv", index=False)
        lines = (json.dumps(p, ensure_ascii=False) + "\n" for p in self.predictions)
        (out / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
        (out / "traces.json").write_text(json.dumps(self.traces, ensure_ascii=False) + "\n", encoding="utf-8")
        (out / "signatures.json").write_text(json.dumps(self.signatures, indent=1) + "\n")
