"""Reads every cell of the current grid from disk into a few tidy tables; nothing else of the report reads files.

Only cells that ``params.grid`` names are read: shrinking a grid leaves old directories behind. A cell of the grid
that is not on disk is listed in ``missing`` and shown as "not run", never dropped silently.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dlskip.config import Params
from dlskip.errors import DlskipError
from dlskip.evaluation.columns import LAYERS, RESULTS
from dlskip.methods.settings import KNOBS, PER_SAMPLE, BatchRule, batch_rules, from_columns, headline_rule

CURVES = ["stage", "backbone", "seed", "variant", "share", "step", "metric", "value"]
PREDICTIONS = ["backbone", "seed", "method", "setting", "batch", "task", "id", "prediction", "gold"]
# stage -> the directory under artifacts/ that holds its result
STAGES = {
    "finetune": "vanilla", "adapter_init": "adapter_init", "skip_pretrain": "skip_pretrain", "rl": "rl",
    "mixer": "ours",
}  # fmt: skip


@dataclass
class Collected:
    """Everything that the report shows.

    ``results``, ``layers``, ``curves`` and ``predictions`` have the columns above, where ``setting`` is a ``Setting``
    and ``share`` of a curve is that of the model that was trained for it; ``traces`` and ``backbones`` (what
    is known of the model: layers, hidden size, parameters) are per backbone; ``provenance`` and ``alarms`` name their
    cell by its directory.
    """

    params: Params
    results: pd.DataFrame
    layers: pd.DataFrame
    curves: pd.DataFrame
    predictions: pd.DataFrame
    traces: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    backbones: dict[str, dict[str, Any]] = field(default_factory=dict)
    signatures: dict[str, dict[str, str]] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    alarms: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    overlap: dict[str, Any] = field(default_factory=dict)


def collect(params: Params, root: Path) -> Collected:
    """Reads ``evaluations/``, ``speeds/``, ``artifacts/``, ``data/`` and what ``models/`` says, under ``root``.

    Raises:
        DlskipError: A file of a cell that is there is missing or has other columns.
    """
    empty = pd.DataFrame
    found = Collected(params, empty(columns=RESULTS), empty(columns=LAYERS), empty(columns=CURVES), empty())
    tables: dict[str, list[pd.DataFrame]] = {"results": [], "layers": [], "curves": []}
    predictions: list[tuple[Any, ...]] = []
    kept = {"1", PER_SAMPLE, headline_rule(batch_rules(params))}  # rules that decide row by row, or the headline's
    for backbone in params.grid.backbones:
        found.backbones[backbone] = _backbone(root / "models" / backbone)
        for seed in params.grid.seeds:
            cell = f"{backbone}-{seed}"
            for where in (Path(e) for method in params.grid.methods for e in evaluated(params, method, cell)):
                if not (root / where / "rows.csv").is_file():
                    found.missing.append(str(where))
                    continue
                tables["results"].append(_csv(root / where / "rows.csv", RESULTS))
                tables["layers"].append(_csv(root / where / "layers.csv", LAYERS))
                predictions += _predictions(root / where / "predictions.jsonl", backbone, seed, kept)
                found.traces.setdefault(backbone, []).extend(_json(root / where / "traces.json", []))
                found.signatures |= _json(root / where / "signatures.json", {})
                _provenance(found, root, where)
            for method in (m for m in params.grid.timed if m in params.grid.methods):
                where = Path("speeds", method, cell)
                if not (root / where / "rows.csv").is_file():
                    found.missing.append(str(where))
                    continue
                tables["results"].append(_csv(root / where / "rows.csv", RESULTS))
                _provenance(found, root, where)
            for stage, where, variant, share in _training_cells(params, cell):
                if not (root / where / "curves.csv").is_file():
                    found.missing.append(str(where))
                    continue
                curve = _csv(root / where / "curves.csv", ["step", "metric", "value"])
                curve = curve.assign(stage=stage, backbone=backbone, seed=seed, variant=variant, share=share)
                tables["curves"].append(curve[CURVES])
                found.alarms += [{"cell": str(where)} | alarm for alarm in _json(root / where / "alarms.json", [])]
                _provenance(found, root, where)
            for method in params.grid.methods:
                _provenance(found, root, Path("artifacts", method, cell))
    for name, parts in tables.items():
        if parts:
            setattr(found, name, pd.concat(parts, ignore_index=True))
    found.predictions = pd.DataFrame(predictions, columns=PREDICTIONS)
    data = root / "data"
    found.manifest, found.overlap = _json(data / "manifest.json", {}), _json(data / "overlap.json", {})
    return found


def write(found: Collected, reports: Path) -> None:
    """Writes ``results.csv``, ``layers.csv`` and ``curves.csv``."""
    reports.mkdir(parents=True, exist_ok=True)
    for name in ("results", "layers", "curves"):
        getattr(found, name).to_csv(reports / f"{name}.csv", index=False)


def evaluated(params: Params, method: str, cell: str) -> list[str]:
    """Where the evaluations of a method's backbone and seed lie: one for each kind of task that there is."""
    kinds = {"nlu": params.prepare.nlu, "mt": params.prepare.mt}
    return [f"evaluations/{method}/{cell}/{kind}" for kind, tasks in kinds.items() if tasks]


def _training_cells(params: Params, cell: str) -> list[tuple[str, Path, str, float | None]]:
    """(stage, directory, variant, share) of everything that is trained for a backbone and seed."""
    grid = params.grid
    learned = any(method not in ("vanilla", *grid.baselines) for method in grid.methods)
    wanted = {"finetune": True, "adapter_init": learned, "skip_pretrain": learned}
    found: list[tuple[str, Path, str, float | None]] = [
        (stage, Path("artifacts", folder, cell), "", None)
        for stage, folder in STAGES.items()
        if wanted.get(stage, "ours" in grid.methods)
    ]
    for name in (m for m in grid.baselines if m in grid.methods and params.baselines.trains(m)):
        found += [(name, Path("artifacts", name, cell, str(s)), "", s) for s in params.evaluate.shares]
    for name in grid.ablations:
        stages = params.ablations.variants[name].stages
        found += [(stage, Path("artifacts", name, cell, stage), name, None) for stage in stages]
    return found


def _backbone(directory: Path) -> dict[str, Any]:
    """Layers, hidden size and parameters, as far as the prepared backbone says."""
    config = _json(directory / "config.json", {})
    config = config.get("text_config", config) | _json(directory / "source.json", {})
    names = {
        "layers": ("layers", "num_hidden_layers", "n_layer"), "hidden_size": ("hidden_size", "n_embd"),
        "parameters": ("parameters",),
    }  # fmt: skip
    known = {name: next((config[key] for key in keys if key in config), None) for name, keys in names.items()}
    return {name: value for name, value in known.items() if value is not None}


def _provenance(found: Collected, root: Path, where: Path) -> None:
    if record := _json(root / where / "provenance.json", {}):
        found.provenance[str(where)] = record


def _csv(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype={"batch": str, "backbone": str})
    except FileNotFoundError as error:
        raise DlskipError("no such file", where=str(path), mend="dvc repro evaluate") from error
    if set(frame.columns) != set(columns):
        raise DlskipError(
            f"columns {list(frame.columns)}, expected {columns}", where=str(path), mend="run its stage again"
        )
    return frame[columns]


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def _predictions(path: Path, backbone: str, seed: int, batches: set[BatchRule]) -> list[tuple[Any, ...]]:
    """The answers under those batch rules: what the intervals are computed over."""
    if not path.is_file():
        raise DlskipError("no such file", where=str(path), mend="dvc repro evaluate")
    kept = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["batch"] in batches:
                setting = from_columns(*(row[knob] for knob in KNOBS))
                kept.append((backbone, seed, row["method"], setting, *(row[k] for k in PREDICTIONS[4:])))
    return kept
