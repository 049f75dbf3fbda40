"""Raw rows to prepared splits, with a manifest of what was used and a report of train/test overlap."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from dlskip.config import Prepare
from dlskip.data.io import Example, check_row, data_sha256, write_split
from dlskip.data.sources import LICENCES, SPLITS, Source, open_source
from dlskip.data.tasks import INSTRUCTIONS, TASKS, Task, instruction_prompt
from dlskip.errors import DlskipError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# UTF-8 that was once read as Latin-1 or Windows-1252: "cafÃ©", "donâ€™t"; or a character already lost
_MOJIBAKE = re.compile(r"[\u00c2\u00c3][\u0080-\u00bf]|\u00e2[\u0080\u20ac]|\ufffd")
_EXAMPLES = 3  # shown of the rows that stood in a later split too


class _Text(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


def _schema(task: str) -> type[BaseModel]:
    text: Any = (Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)], ...)
    if task == INSTRUCTIONS:
        return create_model("Instruction", __base__=_Text, instruction=text, input=(str, ""), output=(str, ...))
    definition = TASKS[task]
    if definition.kind == "nlu":
        fields: dict[str, Any] = dict.fromkeys(definition.fields, text)
        fields["label"] = (int, Field(ge=0, lt=len(definition.labels)))
        return create_model("NLU", __base__=_Text, **fields)
    pair: Any = create_model("Pair", __base__=_Text, **dict.fromkeys(definition.languages, text))
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


def prepare(params: Prepare, out: Path, tokenizers: Mapping[str, PreTrainedTokenizerBase] | None = None) -> None:
    """Writes ``<task>/<split>.jsonl``, ``manifest.json`` and ``overlap.json`` under ``out``.

    Args:
        params: The ``prepare`` section.
        out: The prepared directory; splits of an earlier call in it are removed.
        tokenizers: By backbone name, for the manifest's token-length quantiles.

    Raises:
        DlskipError: Missing file, broken row, or too few rows.
    """
    limits = _limits(params)
    source = open_source(params, limits)
    for old in out.glob("*/*.jsonl"):
        old.unlink()
    manifest: dict[str, Any] = {
        "source": source.name, "seed": params.seed, "prompts": params.prompts, "max_chars": params.max_chars,
        "data_sets": {}, "splits": {},
    }  # fmt: skip
    overlap: dict[str, Any] = {}
    for task in tqdm([INSTRUCTIONS, *params.nlu, *params.mt], desc="prepare"):
        splits = _splits(task, params, source, limits)
        for name, split in splits.items():
            path = out / task / f"{name}.jsonl"
            write_split(path, split.examples)
            manifest["splits"][f"{task}/{name}"] = _describe(path, split, tokenizers or {})
        licence = "the project's own" if source.name == "embedded" else LICENCES.get(task, "the owner's")
        manifest["data_sets"][task] = {"origin": source.origin(task), "licence": licence}
        if "test" in splits:
            overlap[task] = _overlap(splits)
    manifest["data_sha256"] = data_sha256(out)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "overlap.json").write_text(json.dumps(overlap, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass
class _Split:
    """The chosen rows of a split, where they came from, what was left out, and what was found in a later split."""

    origin: str
    notes: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    removed: dict[str, list[str]] = field(default_factory=dict)  # later split -> prompts that stand there too


def _splits(task: str, params: Prepare, source: Source, limits: dict[tuple[str, str], int]) -> dict[str, _Split]:
    wanted = [split for split in SPLITS if (task, split) in limits]
    # GLUE's test labels are not public: its validation rows are the test set, and validation is carved from train.
    carve = "test" in wanted and not source.has(task, "test")
    origins = {"test": "validation", "validation": "train"} if carve else {}
    splits = {split: _Split(origins.get(split, split)) for split in wanted}
    pools: dict[str, list[tuple[Example, str]]] = {}
    later: dict[str, set[str]] = {}  # every row of the later splits, whether it is chosen there or not
    for name in reversed(wanted):
        split = splits[name]
        if split.origin not in pools:
            owner = splits["train"] if split.origin == "train" else split
            pool = _read(task, split.origin, params, source, owner.notes)
            pools[split.origin] = _remove(pool, later, owner)
            later[name] = {key for _, key in pools[split.origin]}
            if source.name != "embedded":  # whose stream is in random order, and balanced in every prefix
                Random(f"{params.seed}/{task}/{split.origin}").shuffle(pools[split.origin])
        pool = pools[split.origin]
        chosen = pool[: limits[task, name]]
        pools[split.origin] = pool[limits[task, name] :]
        if not chosen:
            mend = "raise prepare.max_chars, check the files"
            raise DlskipError("no rows are left", where=f"{task}/{name}", mend=mend)
        split.examples = [Example(f"{task}-{name}-{i:05d}", *_fields(e)) for i, (e, _) in enumerate(chosen)]
        split.keys = {key for _, key in chosen}
    return splits


def _remove(pool: list[tuple[Example, str]], later: dict[str, set[str]], owner: _Split) -> list[tuple[Example, str]]:
    """The rows that stand in no later split; the others are counted and shown."""
    kept = []
    for example, key in pool:
        if found := next((name for name, keys in later.items() if key in keys), None):
            owner.removed.setdefault(found, []).append(example.prompt)
            owner.notes[f"also in {found}, removed"] += 1
        else:
            kept.append((example, key))
    return kept


def _fields(e: Example) -> tuple[str, str, str, int | None]:
    return e.task, e.prompt, e.target, e.label


def _read(task: str, split: str, params: Prepare, source: Source, note: Counter[str]) -> list[tuple[Example, str]]:
    """Validated, cleaned rows as examples with their overlap key (normalised prompt)."""
    schema = _schema(task)
    pool = []
    seen = set()
    labels = () if task == INSTRUCTIONS else TASKS[task].labels
    for where, raw in source.rows(task, split):
        if labels and isinstance(raw.get("label"), str):
            numbers = ", ".join(f"{number} = {label}" for number, label in enumerate(labels))
            raise DlskipError(f"field 'label': no valid integer ({raw['label']!r:.60})", where=where, mend=numbers)
        row = check_row(schema, _clean(raw, note), where).model_dump()
        example = _example(task, row, params)
        if not example.target.strip():
            note["empty target, left out"] += 1
        elif len(example.prompt) + len(example.target) > params.max_chars:
            note["longer than max_chars, left out"] += 1
        elif (key := _normal(example.prompt)) in seen and split == "train":
            note["duplicate, left out"] += 1
        else:  # an official test set is kept whole
            note["duplicate, kept"] += key in seen
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
        note["texts with control characters, replaced"] += cleaned != value
        note["texts with mojibake, kept"] += bool(_MOJIBAKE.search(value))
        return cleaned
    if isinstance(value, dict):
        return {k: _clean(v, note) for k, v in value.items()}
    return value


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def _overlap(splits: dict[str, _Split]) -> dict[str, int]:
    """How many training rows stand in a later split (none), and how many were removed because they did."""
    train = splits["train"]
    return {
        **{f"train_and_{later}": len(train.keys & splits[later].keys) for later in ("validation", "test")},
        **{f"removed_for_{later}": len(train.removed.get(later, [])) for later in ("validation", "test")},
    }


def _describe(path: Path, split: _Split, tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> dict[str, Any]:
    labels = Counter(e.target.strip() for e in split.examples if e.label is not None)
    lengths = {}
    for name, tokenizer in tokenizers.items():
        texts = [e.prompt + e.target for e in split.examples]
        counts = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        quantiles = np.quantile(counts, [0, 0.5, 0.9, 1])
        lengths[name] = dict(zip(["min", "median", "p90", "max"], map(float, quantiles), strict=True))
    return {
        "rows": len(split.examples),
        "source_split": split.origin,
        "labels": dict(sorted(labels.items())),
        "tokens": lengths,
        "notes": {k: v for k, v in sorted(split.notes.items()) if v},
        "removed_examples": {later: prompts[:_EXAMPLES] for later, prompts in split.removed.items()},
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
