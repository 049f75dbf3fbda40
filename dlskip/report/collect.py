"""Reads every run of the current grid from disk into a few tidy tables; nothing else of the report reads files.

Only runs that ``params.grid`` names are read: shrinking a grid leaves old directories behind. A run of the grid
that is not on disk is listed in ``missing`` and shown as "not run", never dropped silently.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dlskip import files, provenance
from dlskip.config import Params
from dlskip.errors import DlskipError
from dlskip.evaluation.columns import LAYERS, RESULTS
from dlskip.methods.settings import ALL, KNOBS, PER_SAMPLE, BatchRule, batch_rules, from_columns, headline_rule

CURVES = ["stage", "backbone", "seed", "variant", "share", "step", "metric", "value"]
PREDICTIONS = ["backbone", "seed", "method", "setting", "batch", "task", "id", "prediction", "gold"]
# stage -> the directory under artifacts/ that holds its result; each starts from the one before it
STAGES = {"finetune": "vanilla", **{s: s for s in ("adapter_init", "skip_pretrain", "rl")}, "mixer": "ours"}


@dataclass
class Collected:
    """Everything that the report shows.

    ``results``, ``layers``, ``curves`` and ``predictions`` have the columns above, where ``setting`` is a ``Setting``
    and ``share`` of a curve is that of the model that was trained for it; ``traces`` and ``backbones`` (what
    is known of the model: layers, hidden size, parameters) are per backbone; ``provenance`` and ``alarms`` name their
    run by its directory.
    """

    params: Params
    results: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=RESULTS))
    layers: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=LAYERS))
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CURVES))
    predictions: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PREDICTIONS))
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
        DlskipError: A file of a run that is there is missing or has other columns.
    """
    found = Collected(params)
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in ("results", "layers", "curves", "predictions")}
    rules = {"1", PER_SAMPLE, headline_rule(batch_rules(params))}  # rules that decide row by row, or the headline's
    for backbone, seed in itertools.product(params.grid.backbones, params.grid.seeds):
        pair = f"{backbone}-{seed}"
        found.backbones[backbone] = _backbone(root / "models" / backbone)
        for path in _there(found, root, "rows.csv", _of_methods(params, pair)):
            parts["results"].append(_csv(path / "rows.csv", RESULTS))
            if path.relative_to(root).parts[0] == "evaluations":
                parts["layers"].append(_csv(path / "layers.csv", LAYERS))
                parts["predictions"].append(_predictions(path / "predictions.jsonl", backbone, seed, rules))
                found.traces.setdefault(backbone, []).extend(_json(path / "traces.json", []))
                found.signatures |= _json(path / "signatures.json", {})
        about = {where: names for where, *names in _trainings(params, pair)}
        for path in _there(found, root, "curves.csv", about):
            where = path.relative_to(root).as_posix()
            curve = _csv(path / "curves.csv", ["step", "metric", "value"])
            known = dict(zip(("stage", "variant", "share"), about[where], strict=True))
            parts["curves"].append(curve.assign(backbone=backbone, seed=seed, **known)[CURVES])
            found.alarms += [{"run": where} | alarm for alarm in _json(path / "alarms.json", [])]
        for method in params.grid.methods:
            _provenance(found, root, f"artifacts/{method}/{pair}")
    for name, frames in parts.items():
        if frames:
            setattr(found, name, pd.concat(frames, ignore_index=True))
    data = root / "data"
    found.manifest, found.overlap = _json(data / "manifest.json", {}), _json(data / "overlap.json", {})
    return found


def _there(found: Collected, root: Path, file: str, directories: Iterable[str]) -> Iterator[Path]:
    """Those of the directories that hold a file, with their provenance noted; the others are noted as missing."""
    for where in directories:
        if all((root / where / name).is_file() for name in (file, provenance.MARK)):  # the mark is written last
            provenance.check(root / where, file, "layers.csv", "predictions.jsonl")
            yield root / where
            _provenance(found, root, where)
        else:
            found.missing.append(where)


def write(found: Collected, reports: Path) -> None:
    """Writes ``results.csv``, ``layers.csv`` and ``curves.csv``."""
    reports.mkdir(parents=True, exist_ok=True)
    for name in ("results", "layers", "curves"):
        getattr(found, name).to_csv(reports / f"{name}.csv", index=False)


def evaluated(params: Params, method: str, pair: str) -> list[str]:
    """Where the evaluations of a method lie: one for each kind of task that there is; ``pair``: backbone-seed."""
    kinds = {"nlu": params.prepare.nlu, "mt": params.prepare.mt}
    return [f"evaluations/{method}/{pair}/{kind}" for kind, tasks in kinds.items() if tasks]


def _of_methods(params: Params, pair: str) -> list[str]:
    """Where evaluations and measurements of speed lie."""
    methods = params.grid.methods
    timed = [f"speeds/{method}/{pair}" for method in params.grid.timed if method in methods]
    return [*(where for method in methods for where in evaluated(params, method, pair)), *timed]


def _trainings(params: Params, pair: str) -> Iterator[tuple[str, str, str, float | None]]:
    """(directory, stage, variant, share) of everything that is trained for a backbone and seed."""
    grid = params.grid
    learned = any(method not in ("vanilla", *grid.baselines) for method in grid.methods)
    wanted = {"finetune": True, "adapter_init": learned, "skip_pretrain": learned}
    for stage, folder in STAGES.items():
        if wanted.get(stage, "ours" in grid.methods):
            yield f"artifacts/{folder}/{pair}", stage, "", None
    for name in grid.trained:
        yield from ((f"artifacts/{name}/{pair}/{share}", name, "", share) for share in params.evaluate.shares)
    yield from ((f"artifacts/{name}/{pair}/{ALL}", name, "", None) for name in grid.trained_once)
    for name in grid.ablations:
        yield from ((f"artifacts/{name}/{pair}/{s}", s, name, None) for s in params.ablations.variants[name].stages)


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


def _provenance(found: Collected, root: Path, where: str) -> None:
    if record := _json(root / where / provenance.MARK, {}):
        found.provenance[where] = {name: value for name, value in record.items() if name != "sha256"}


def _csv(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, dtype={"batch": str, "backbone": str})
    except FileNotFoundError as error:
        raise DlskipError("no such file", where=str(path), mend="dvc repro evaluate") from error
    except ValueError as error:  # pandas' own are such, and UnicodeDecodeError
        raise DlskipError(f"no table: {error}", where=str(path), mend="run its stage again") from error
    if set(frame.columns) != set(columns):
        raise DlskipError(
            f"columns {list(frame.columns)}, expected {columns}", where=str(path), mend="run its stage again"
        )
    return frame[columns]


def _json(path: Path, default: Any) -> Any:
    """What a JSON file holds, of the kind of ``default``, which stands for a file that is not there."""
    if not path.is_file():
        return default
    found = files.parse_json(path, "run its stage again")
    if not isinstance(found, type(default)):
        raise DlskipError(f"no {type(default).__name__}", where=str(path), mend="run its stage again")
    return found


def _predictions(path: Path, backbone: str, seed: int, rules: set[BatchRule]) -> pd.DataFrame:
    """The answers under those batch rules: what the intervals are computed over."""
    if not path.is_file():
        raise DlskipError("no such file", where=str(path), mend="dvc repro evaluate")
    kept = []
    try:
        with path.open(encoding="utf-8") as lines:
            for row in (row for row in map(json.loads, lines) if row["batch"] in rules):
                setting = from_columns(*(row[knob] for knob in KNOBS))
                kept.append((backbone, seed, row["method"], setting, *(row[k] for k in PREDICTIONS[4:])))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DlskipError(f"a broken row: {error!r:.80}", where=str(path), mend="run its stage again") from error
    return pd.DataFrame(kept, columns=PREDICTIONS)
