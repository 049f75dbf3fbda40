"""Random but valid evaluations and artifacts, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dlskip import config
from dlskip.data.tasks import TASKS
from dlskip.metrics import mt_metrics, nlu_metrics
from dlskip.report import collect

LAYERS = 12
REPO = Path(__file__).resolve().parents[1]
WORDS = {
    "zh": list("小狗在花园里跑。老师看书今天"),
    "de": ["der", "kleine", "Hund", "läuft", "heute", "durch", "den", "alten", "Garten", "und", "schläft", "."],
    "en": ["the", "small", "dog", "runs", "through", "the", "old", "garden", "and", "sleeps", "today", "."],
}


def parameters(**grid: Any) -> config.Params:
    data = config.read_yaml(REPO / "recipes" / "embedded.yaml")
    data["prepare"] |= {"nlu": ["entailment", "sentiment", "acceptability"], "mt": ["en-zh", "de-en"]}
    data["grid"] = {"backbones": ["smollm2"], "seeds": [0], "methods": ["vanilla", "ours"]} | grid
    data["backbones"]["other"] = {"source": "tiny-llama"}
    data["figures"] = {"dpi": 70}
    return config.validate(data)


def write_world(root: Path, params: config.Params, n: int = 40) -> None:
    """Evaluations, training artifacts and a manifest of every cell of the grid."""
    for backbone in params.grid.backbones:
        for seed in params.grid.seeds:
            for method in params.grid.methods:
                _evaluation(root, params, method, backbone, seed, n)
            for folder in ("vanilla", "adapter_init", "skip_pretrain", "rl", "ours"):
                _training(root / "artifacts" / folder / f"{backbone}-{seed}", seed)
            for i, variant in enumerate(params.ablations.variants):
                _training(root / "artifacts/ablations" / f"{backbone}-{seed}" / variant, seed + 10 * i)
    data = root / "data"
    data.mkdir(parents=True)
    split = {"rows": 9, "labels": {"yes": 4}, "tokens": {"smollm2": {"median": 9.0, "max": 12.0}}, "notes": {}}
    manifest = {
        "source": "embedded",
        "seed": 0,
        "prompts": "short",
        "data_sha256": "0" * 64,
        "splits": {"a/train": split},
    }
    (data / "manifest.json").write_text(json.dumps(manifest))
    (data / "overlap.json").write_text(json.dumps({"a": {"train_and_test": 0}}))


def _provenance(out: Path, seed: int) -> None:
    record = {
        "command": "python -m stages.x <a & b>", "stage": "x", "config": {"a": 1}, "versions": {"torch": "2"},
        "data_sha256": "0" * 64, "seed": seed, "device": "cpu", "threads": 2, "seconds": 1.5, "peak_memory_mb": 9,
        "git_commit": None, "git_dirty": None, "created": "2000-01-01T00:00:00+00:00",
    }  # fmt: skip
    (out / "provenance.json").write_text(json.dumps(record))


def _training(out: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    out.mkdir(parents=True)
    rows = []
    for step in range(0, 80, 4):
        names = ["loss", "ce_reward", "reward", "skip_sampled", "val_skip_sampled", "val_skip_threshold", "val_ce_full"]
        rows += [{"step": step, "metric": m, "value": 1 / (1 + step / 20) + 0.1 * rng.normal()} for m in names]
    pd.DataFrame(rows).to_csv(out / "curves.csv", index=False)
    alarm = {"step": 8, "kind": "none-skip", "message": "the thresholded policy skips nothing"}
    (out / "alarms.json").write_text(json.dumps([alarm] if out.parent.name == "rl" else []))
    _provenance(out, seed)


def _settings(params: config.Params, method: str) -> list[tuple[str, str, str, float]]:
    """(method, setting, batch, share skipped)."""
    if method == "vanilla":
        return [("vanilla", "full", "per_sample", 0.0)]
    found = []
    for batch in map(str, params.evaluate.batches):
        found.append(("ours", "full", batch, 0.0))
        for t in params.evaluate.thresholds:
            share = 0.72 - 0.7 * t - 0.01 * (batch == "16")
            found.append(("ours", str(t), batch, share))
            if batch == "per_sample":
                found.append(("random", str(t), batch, share))
    return found


def _evaluation(root: Path, params: config.Params, method: str, backbone: str, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed + len(method))
    rows, layers, predictions, traces = [], [], [], []
    for task in [*params.prepare.nlu, *params.prepare.mt]:
        definition = TASKS[task]
        for name, setting, batch, share in _settings(params, method):
            right = 0.85 - share * (0.9 if name == "random" else 0.3)
            key = {"method": name, "setting": setting, "batch": batch, "task": task}
            if definition.kind == "nlu":
                gold = [i % len(definition.labels) for i in range(n)]
                said = [g if rng.random() < right else (None if rng.random() < 0.1 else 1 - g) for g in gold]
                scores = nlu_metrics(said, gold, len(definition.labels), definition.metrics, definition.positive)
                texts = [("?", definition.labels[g]) if s is None else (definition.labels[s], definition.labels[g])
                         for s, g in zip(said, gold, strict=True)]  # fmt: skip
            else:
                words, gap = WORDS[definition.languages[1]], "" if definition.languages[1] == "zh" else " "
                sentences = [[words[(i + 3 * j) % len(words)] for j in range(9)] for i in range(n)]
                texts = [(gap.join(w if rng.random() < right else words[0] for w in s), gap.join(s)) for s in sentences]
                scores = mt_metrics([t for t, _ in texts], [t for _, t in texts], definition.languages[1])[0]
            if setting != "full":
                scores |= {"speedup": 0.95 / (1 - 0.8 * share)}
            scores |= {"skip_prefill": share, "skip_decode": share, "seconds_per_example": 0.1}
            rows += [
                key | {"backbone": backbone, "seed": seed, "metric": m, "value": v, "skip_ratio": share, "n": n}
                for m, v in scores.items()
            ]
            wave = share * (1 + 0.6 * np.sin(np.arange(LAYERS) + len(task)))
            wave[[0, -1]] = 0
            for layer, rate in enumerate(np.clip(wave, 0, 1)):
                spread = float(np.sqrt(rate * (1 - rate)))
                layers.append(
                    key | {"backbone": backbone, "seed": seed, "layer": layer, "skip_rate": rate, "skip_std": spread}
                )
            predictions += [
                key
                | {
                    "id": f"{task}-{i:03d}",
                    "prediction": p,
                    "answer": None,
                    "gold": g,
                    "skipped": "0" * LAYERS,
                    "layers_run": 9.0,
                }
                for i, (p, g) in enumerate(texts)
            ]
            if definition.kind == "mt" and batch == "1":
                tokens = ["<prompt>", *WORDS[definition.languages[1]]]
                ran = (rng.random((len(tokens), LAYERS)) > np.clip(wave, 0, 1)).astype(int).tolist()
                traces.append(
                    {
                        "task": task,
                        "setting": setting,
                        "prompt": "A <b>.",
                        "reference": "r",
                        "output": "o",
                        "tokens": tokens,
                        "ran": ran,
                    }
                )
    out = root / "evaluations" / method / f"{backbone}-{seed}"
    out.mkdir(parents=True)
    pd.DataFrame(rows)[collect.RESULTS].to_csv(out / "rows.csv", index=False)
    pd.DataFrame(layers).to_csv(out / "layers.csv", index=False)
    (out / "predictions.jsonl").write_text("\n".join(json.dumps(p, ensure_ascii=False) for p in predictions) + "\n")
    (out / "traces.json").write_text(json.dumps(traces, ensure_ascii=False))
    (out / "signatures.json").write_text(json.dumps({t: {"bleu": "b|1", "chrf": "c|1"} for t in params.prepare.mt}))
    _provenance(out, seed)
