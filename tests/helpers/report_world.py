"""Random but valid evaluations and artifacts of every method, for the tests of the report."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlskip import config
from dlskip.data.tasks import TASKS, Task
from dlskip.evaluation.metrics import mt_metrics, nlu_metrics
from dlskip.methods.names import UNSKIPPED
from dlskip.methods.settings import (
    FULL,
    PER_SAMPLE,
    BatchRule,
    Setting,
    batch_rules,
    borrowed,
    prices,
    rule_of,
    shares,
    thresholds,
)
from dlskip.report import collect
from tests.helpers import default

LAYERS = 12
REPO = Path(__file__).resolve().parents[2]
WORDS = {
    "zh": list("小狗在花园里跑。老师看书今天"),
    "de": ["der", "kleine", "Hund", "läuft", "heute", "durch", "den", "alten", "Garten", "und", "schläft", "."],
    "en": ["the", "small", "dog", "runs", "through", "the", "old", "garden", "and", "sleeps", "today", "."],
}
HOSTILE = "<script>alert('x')</script>|[a](javascript:b)"  # what a name, a device or a trace may hold
METHODS = [
    "vanilla", "vanilla_long", "skip_decode", "static", "pretrain_static", "unified", "early_exit", "shortgpt", "ours",
    "no_mixer", "no_mixer_no_sampling",
]  # fmt: skip
BASELINES, ABLATIONS = METHODS[2:8], METHODS[9:]
TRAINED = ["static", "pretrain_static"]
LOSS = {"random": 0.9, "ours": 0.3, "static": 0.35, "unified": 0.5}  # of accuracy, per share skipped


def parameters(**grid: Any) -> config.Params:
    """The settings of recipe wide with fewer tasks, and every method unless ``grid`` says otherwise."""
    data, wide = config.read_yaml(default.PARAMS), config.read_yaml(REPO / "recipes" / "wide.yaml")
    data["evaluate"] |= wide["evaluate"]
    data["speed"] |= wide["speed"]
    data["prepare"] |= {"nlu": ["entailment", "sentiment", "acceptability"], "mt": ["en-zh", "de-en"]}
    methods = grid.pop("methods", METHODS)
    made = {
        "own": ["vanilla", "ours"],
        "baselines": METHODS[1:8],
        "trained": TRAINED,
        "ablations": ABLATIONS,
        "trained_once": METHODS[1:2],
        "timed": ["vanilla", *METHODS[2:9]],
    }
    data["grid"] = {"backbones": ["smollm2"], "seeds": [0], "borrowed": []} | grid
    data["grid"] |= {key: [m for m in listed if m in methods] for key, listed in made.items()}
    data["backbones"]["other"] = {"source": "tiny-llama"}
    return config.validate(data)


def write_world(root: Path, params: config.Params, n: int = 40) -> None:
    """Evaluations, training artifacts, backbones and a manifest of every run of the grid."""
    for backbone in params.grid.backbones:
        models = root / "models" / backbone
        models.mkdir(parents=True, exist_ok=True)
        (models / "source.json").write_text(json.dumps({"kind": "stored", "parameters": 134_500_000}))
        (models / "config.json").write_text(json.dumps({"num_hidden_layers": LAYERS, "hidden_size": 576}))
        for seed in params.grid.seeds:
            pair = f"{backbone}-{seed}"
            for method in params.grid.methods:
                write_evaluation(root, params, method, backbone, seed, n)
            for method in (m for m in params.grid.timed if m in params.grid.methods):
                _speed(root / "speeds" / method / pair, params, method, {"backbone": backbone, "seed": seed})
            for folder in ("vanilla", "adapter_init", "skip_pretrain", "rl", "ours"):
                _training(root / "artifacts" / folder / pair, seed, alarm=folder == "rl")
            for name in params.grid.trained_once:
                _training(root / "artifacts" / name / pair / "all", seed)
            for name in params.grid.trained:
                for share in params.evaluate.shares:
                    _training(root / "artifacts" / name / pair / str(share), seed)
            for i, name in enumerate(params.grid.ablations):
                for stage in params.ablations.variants[name].stages:
                    _training(root / "artifacts" / name / pair / stage, seed + 10 * (i + 1))
    data = root / "data"
    data.mkdir(parents=True, exist_ok=True)
    split = {"rows": 9, "labels": {"yes": 4}, "tokens": {"smollm2": {"median": 9.0, "max": 12.0}}, "notes": {}}
    manifest = {
        "source": "embedded", "seed": 0, "prompts": "short", "data_sha256": "0" * 64, "splits": {"a/train": split},
    }  # fmt: skip
    (data / "manifest.json").write_text(json.dumps(manifest))
    (data / "overlap.json").write_text(json.dumps({"a": {"train_and_test": 0}}))


def _provenance(out: Path, seed: int, **more: Any) -> None:
    record = {
        "command": "python -m stages.x <a & b>", "stage": "x", "config": {"a": 1}, "versions": {"torch": "2"},
        "data_sha256": "0" * 64, "seed": seed, "device": f"cpu {HOSTILE}", "threads": 2, "seconds": 1.5,
        "peak_memory_mb": 9, "git_commit": None, "git_dirty": None, "created": "2000-01-01T00:00:00+00:00",
    }  # fmt: skip
    (out / "provenance.json").write_text(json.dumps(record | more))


def _training(out: Path, seed: int, *, alarm: bool = False) -> None:
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True)
    rows = []
    for step in range(0, 80, 4):
        names = ["loss", "ce_reward", "reward", "skip_sampled", "val_skip_sampled", "val_skip_threshold", "val_ce_full"]
        rows += [{"step": step, "metric": m, "value": 1 / (1 + step / 20) + 0.1 * rng.normal()} for m in names]
    pd.DataFrame(rows).to_csv(out / "curves.csv", index=False)
    said = {"step": 8, "kind": "none-skip", "message": "the thresholded policy skips nothing"}
    (out / "alarms.json").write_text(json.dumps([said] if alarm else []))
    _provenance(out, seed, training={"steps": 80, "rows": 640, "tokens": 12_800, "lr": 5e-4})


def _cases(params: config.Params, method: str, task: Task) -> Iterator[tuple[str, Setting, BatchRule, float]]:
    """(method, setting, batch, share skipped)."""
    evaluate = params.evaluate
    if method in UNSKIPPED:
        yield method, FULL, PER_SAMPLE, 0.0
    elif method in BASELINES or borrowed(method):
        if borrowed(method):
            yield method, FULL, PER_SAMPLE, 0.0
        for setting, share in zip(shares(evaluate.shares), evaluate.shares, strict=True):
            grown = 0.6 if method == "skip_decode" and task.kind == "mt" else 1.0
            yield method, setting, PER_SAMPLE, grown * min(round(share * LAYERS), LAYERS - 2) / LAYERS
    else:
        for batch in batch_rules(params) if method == "ours" else [PER_SAMPLE]:
            yield method, FULL, batch, 0.0
            if method != "ours" and "model" in params.ablations.variants[method].set:  # conditioned on the price
                yield from ((method, s, batch, 0.1 + 0.2 * (s.price or 0)) for s in prices(evaluate.prices))
                continue
            for setting, t in zip(thresholds(evaluate.thresholds), evaluate.thresholds, strict=True):
                share = 0.72 - 0.7 * t - 0.01 * (batch == "16") - 0.05 * (method != "ours")
                yield method, setting, batch, share
                if method == "ours" and batch == PER_SAMPLE:
                    yield "random", setting, batch, share


def _answers(
    task: Task, right: float, n: int, rng: np.random.Generator
) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """(prediction, gold) of n examples, and their scores."""
    if task.kind == "nlu":
        gold = [i % len(task.labels) for i in range(n)]
        said = [g if rng.random() < right else (None if rng.random() < 0.1 else 1 - g) for g in gold]
        texts = [("?" if s is None else task.labels[s], task.labels[g]) for s, g in zip(said, gold, strict=True)]
        return texts, nlu_metrics(said, gold, len(task.labels), task.metrics, task.positive)
    words, gap = WORDS[task.languages[1]], "" if task.languages[1] == "zh" else " "
    sentences = [[words[(i + 3 * j) % len(words)] for j in range(9)] for i in range(n)]
    texts = [(gap.join(w if rng.random() < right else words[0] for w in s), gap.join(s)) for s in sentences]
    return texts, mt_metrics([t for t, _ in texts], [t for _, t in texts], task.languages[1])[0]


def write_evaluation(root: Path, params: config.Params, method: str, backbone: str, seed: int, n: int) -> None:
    """What stage evaluate leaves of one method: a folder for each kind of task."""
    for kind, tasks in (("nlu", params.prepare.nlu), ("mt", params.prepare.mt)):
        out = root / "evaluations" / method / f"{backbone}-{seed}" / kind
        _evaluation(out, params, method, backbone, seed, tasks, n)


def _evaluation(
    out: Path, params: config.Params, method: str, backbone: str, seed: int, tasks: list[str], n: int
) -> None:  # fmt: skip
    rng = np.random.default_rng(zlib.crc32(f"{method} {seed} {tasks}".encode()))
    rows: list[dict[str, Any]] = []
    layers, predictions, traces = [], [], []
    of = {"backbone": backbone, "seed": seed}
    for task in tasks:
        definition = TASKS[task]
        for name, setting, batch, share in _cases(params, method, definition):
            key = {"method": name, **setting.columns(), "batch": batch, "task": task}
            texts, scores = _answers(definition, 0.85 - share * LOSS.get(name, 0.6), n, rng)
            scores |= {"skip_prefill": share, "skip_decode": share}
            about = key | of | {"split": "test", "skip_ratio": share, "n": n}
            rows += [about | {"metric": m, "value": v} for m, v in scores.items()]
            wave = np.clip(share * (1 + 0.6 * np.sin(np.arange(LAYERS) + len(task))), 0, 1)
            if method in BASELINES:
                wave = (np.arange(LAYERS) >= LAYERS - 1 - round(share * LAYERS)).astype(float)
            wave[[0, -1]] = 0
            layers += [
                key | of | {"phase": phase, "layer": i, "skip_rate": x, "skip_std": float(np.sqrt(x * (1 - x)))}
                for phase, rates in (("prompt", wave), ("decode", wave[::-1]))
                for i, x in enumerate(rates)
            ]
            said = {"answer": None, "skipped": "0" * LAYERS, "layers_run": 9.0}
            predictions += [
                key | {"id": f"{task}-{i:03d}", "prediction": p, "gold": g} | said for i, (p, g) in enumerate(texts)
            ]
            if definition.kind == "mt" and batch == "1":
                tokens = ["<prompt>", HOSTILE, "$x^$", *WORDS[definition.languages[1]]]
                ran = (rng.random((len(tokens), LAYERS)) > wave).astype(int).tolist()
                trace = {"task": task, **setting.columns(), "prompt": "A <b>.", "reference": HOSTILE, "output": "o"}
                traces.append(trace | {"tokens": tokens, "ran": ran})
    out.mkdir(parents=True)
    pd.DataFrame(rows)[collect.RESULTS].to_csv(out / "rows.csv", index=False)
    pd.DataFrame(layers).to_csv(out / "layers.csv", index=False)
    (out / "predictions.jsonl").write_text("\n".join(json.dumps(p, ensure_ascii=False) for p in predictions) + "\n")
    (out / "traces.json").write_text(json.dumps(traces, ensure_ascii=False))
    (out / "signatures.json").write_text(
        json.dumps({t: {"bleu": "b|1", "chrf": "c|1"} for t in tasks if TASKS[t].kind == "mt"})
    )
    _provenance(out, seed)


def _speed(out: Path, params: config.Params, method: str, of: dict[str, Any]) -> None:
    """What stage speed leaves of one method."""
    timed = {s: share for m, s, _, share in _cases(params, method, TASKS["entailment"]) if m == method}
    batches = [*map(rule_of, params.speed.batches), *([PER_SAMPLE] if method == "ours" else [])]
    rows = []
    for batch in batches:
        for setting, share in timed.items():
            factor = 1 / (1 - 0.7 * share)
            values = {
                "speedup_prefill": factor, "speedup_decode": 0.95 * factor, "ms_prefill": 40 / factor,
                "ms_decode": 10 / factor, "skip_prefill": share, "skip_decode": share,
            }  # fmt: skip
            key = {"method": method, **setting.columns(), "batch": batch, "split": "test", "task": "timing"} | of
            rows += [key | {"metric": m, "value": v, "skip_ratio": share, "n": 8} for m, v in values.items()]
    out.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(out / "rows.csv", index=False)
    _provenance(out, int(of["seed"]))
