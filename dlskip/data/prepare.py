"""Raw rows to prepared splits, with a manifest of what was used and a report of train/test overlap."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from dlskip.config import Prepare
from dlskip.data.io import Example, check_row, read_split, write_split
from dlskip.data.sources import INSTRUCTIONS, SPLITS, Source, open_source
from dlskip.data.tasks import TASKS, Task, instruction_prompt
from dlskip.errors import DlskipError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Text(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


def _schema(task: str) -> type[BaseModel]:
    text = (str, Field(min_length=1))
    if task == INSTRUCTIONS:
        return create_model("Instruction", __base__=_Text, instruction=text, input=(str, ""), output=(str, ...))
    definition = TASKS[task]
    if definition.kind == "nlu":
        fields: dict[str, Any] = dict.fromkeys(definition.fields, text)
        fields["label"] = (int, Field(ge=0, lt=len(definition.labels)))
        return create_model("NLU", __base__=_Text, **fields)
    pair = create_model("Pair", __base__=_Text, **dict.fromkeys(definition.languages, text))
    return create_model("Translation", __base__=_Text, translation=(pair, ...))


def _limits(params: Prepare) -> dict[tuple[str, str], int]:
    limits = {(INSTRUCTIONS, "train"): params.instructions}
    for task in params.nlu:
        limits |= {(task, "train"): params.train, (task, "validation"): params.validation, (task, "test"): params.test}
    for task in params.mt:
        limits |= {
            (task, "train"): params.train_mt or params.train,
            (task, "validation"): params.validation,
            (task, "test"): params.test_mt,
        }
    return limits


def prepare(params: Prepare, out: Path, tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> None:
    """Writes ``<task>/<split>.jsonl``, ``manifest.json`` and ``overlap.json`` under ``out``.

    Args:
        params: The ``prepare`` section.
        out: The prepared directory.
        tokenizers: By backbone name, for the manifest's token-length quantiles.

    Raises:
        DlskipError: Unknown task, missing file, broken row, or too few rows.
    """
    for task in [*params.nlu, *params.mt]:
        kind = "nlu" if task in params.nlu else "mt"
        if task not in TASKS or TASKS[task].kind != kind:
            known = ", ".join(t.name for t in TASKS.values() if t.kind == kind)
            raise DlskipError(f"unknown task {task!r}", where=f"prepare.{kind}", mend=f"one of {known}")
    limits = _limits(params)
    source = open_source(params, limits)
    manifest: dict[str, Any] = {"source": source.name, "seed": params.seed, "prompts": params.prompts, "splits": {}}
    overlap: dict[str, Any] = {}
    for task in tqdm([INSTRUCTIONS, *params.nlu, *params.mt], desc="prepare"):
        splits, notes = _splits(task, params, source, limits, overlap)
        for split, examples in splits.items():
            path = out / task / f"{split}.jsonl"
            write_split(path, examples)
            manifest["splits"][f"{task}/{split}"] = _describe(path, examples, notes[split], tokenizers)
    manifest["data_sha256"] = data_sha256(out)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "overlap.json").write_text(json.dumps(overlap, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def data_sha256(directory: Path) -> str:
    """One hash over all prepared rows."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*.jsonl")):
        digest.update(path.relative_to(directory).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _splits(
    task: str, params: Prepare, source: Source, limits: dict[tuple[str, str], int], overlap: dict[str, Any]
) -> tuple[dict[str, list[Example]], dict[str, Counter[str]]]:
    wanted = [split for split in SPLITS if (task, split) in limits]
    notes: dict[str, Counter[str]] = {split: Counter() for split in wanted}
    # GLUE's test labels are not public: its validation rows are the test set, and validation is carved from train.
    from_split = {split: split for split in wanted}
    if "test" in wanted and not source.has(task, "test"):
        from_split |= {"test": "validation", "validation": "train"}
    pools: dict[str, list[tuple[Example, str]]] = {}
    for origin in dict.fromkeys(from_split.values()):
        pools[origin] = _read(task, origin, params, source, notes[next(s for s in wanted if from_split[s] == origin)])
    chosen: dict[str, list[tuple[Example, str]]] = {}
    taken: set[str] = set()
    for split in reversed(wanted):  # test first, so that what stands there is removed from the others
        pool = pools[from_split[split]]
        fresh = [(e, k) for e, k in pool if k not in taken]
        notes[split]["also in a later split, removed"] += len(pool) - len(fresh)
        if source.name != "embedded":
            Random(f"{params.seed}/{task}/{from_split[split]}").shuffle(fresh)
        chosen[split] = fresh[: limits[task, split]]
        if not chosen[split]:
            raise DlskipError("no rows are left", where=f"{task}/{split}", mend="raise prepare.max_chars, check the files")
        taken |= {k for _, k in chosen[split]}
        if split != "train" and split != from_split[split]:
            notes[split][f"rows of the source's {from_split[split]} split"] = len(chosen[split])
    _report_overlap(task, chosen, notes, overlap)
    result = {
        split: [Example(f"{task}-{split}-{i:05d}", *_fields(e)) for i, (e, _) in enumerate(chosen[split])]
        for split in wanted
    }
    return result, notes


def _fields(e: Example) -> tuple[str, str, str, int | None]:
    return e.task, e.prompt, e.target, e.label


def _read(
    task: str, split: str, params: Prepare, source: Source, note: Counter[str]
) -> list[tuple[Example, str]]:
    """Validated, cleaned rows as examples with their overlap key (normalised prompt)."""
    schema = _schema(task)
    pool, seen = [], set()
    for where, raw in source.rows(task, split):
        row = check_row(schema, _clean(raw, note), where).model_dump()
        example = _example(task, row, params)
        if not example.target.strip():
            note["empty target, left out"] += 1
        elif len(example.prompt) + len(example.target) > params.max_chars:
            note["longer than max_chars, left out"] += 1
        elif (key := _normal(example.prompt)) in seen:
            note["duplicate, left out"] += 1
        else:
            seen.add(key)
            pool.append((example, key))
    return pool


def _example(task: str, row: dict[str, Any], params: Prepare) -> Example:
    if task == INSTRUCTIONS:
        return Example("", task, instruction_prompt(row["instruction"], row["input"]), f" {row['output'].strip()}")
    definition: Task = TASKS[task]
    if definition.kind == "nlu":
        label = row["label"]
        return Example("", task, definition.prompt(row, params.prompts), f" {definition.labels[label]}", label)
    pair = row["translation"]
    return Example("", task, definition.prompt(pair, params.prompts), f" {pair[definition.languages[1]].strip()}")


def _clean(value: Any, note: Counter[str]) -> Any:
    if isinstance(value, str):
        cleaned = _CONTROL.sub(" ", value)
        note["control characters replaced"] += cleaned != value
        return cleaned
    if isinstance(value, dict):
        return {k: _clean(v, note) for k, v in value.items()}
    return value


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _report_overlap(
    task: str, chosen: dict[str, list[tuple[Example, str]]], notes: dict[str, Counter[str]], overlap: dict[str, Any]
) -> None:
    if "test" not in chosen:
        return
    keys = {split: {k for _, k in rows} for split, rows in chosen.items()}
    overlap[task] = {
        "train_and_test": len(keys["train"] & keys["test"]),
        "train_and_validation": len(keys["train"] & keys["validation"]),
        "removed_from_train": notes["train"]["also in a later split, removed"],
    }


def _describe(
    path: Path, examples: list[Example], note: Counter[str], tokenizers: Mapping[str, PreTrainedTokenizerBase]
) -> dict[str, Any]:
    labels = Counter(e.target.strip() for e in examples if e.label is not None)
    lengths = {}
    for name, tokenizer in tokenizers.items():
        counts = [len(tokenizer(e.prompt + e.target, add_special_tokens=False)["input_ids"]) for e in examples]
        quantiles = np.quantile(counts, [0, 0.5, 0.9, 1])
        lengths[name] = dict(zip(["min", "median", "p90", "max"], map(float, quantiles), strict=True))
    return {
        "rows": len(examples),
        "labels": dict(sorted(labels.items())),
        "tokens": lengths,
        "notes": {k: v for k, v in sorted(note.items()) if v},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def load_training(directory: Path, tasks: list[str], split: str) -> list[Example]:
    """The rows of several tasks together, in a fixed order."""
    return [example for task in tasks for example in read_split(directory, task, split)]
