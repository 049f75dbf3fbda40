"""What each method's training took, and every run's time: baselines are to be no straw men."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlskip.config import Params
from dlskip.methods.names import title
from dlskip.methods.settings import ALL, borrowed
from dlskip.report.collect import STAGES
from dlskip.report.table import Table
from dlskip.report.view import View

CHAIN = list(STAGES.values())  # directories of our method's training, in order
_NAMES = {"vanilla": "fine-tuning", "ours": "mixer"}
_OF_BASELINES = {
    "vanilla_long": "fine-tuning, gone on with", "pretrain_static": "skip pretraining with given layers dropped",
}  # fmt: skip
_STARTS = {"vanilla": "", "ours": "rl"}  # all others: vanilla


def trained(params: Params, method: str, pair: str) -> list[str]:
    """Directories of all that was trained for a method, from the shared fine-tuning on; ``pair``: backbone-seed."""
    if lent := borrowed(method):
        return trained(params, "ours", pair) if lent[1] == "ours" else _chain(lent[1], pair)
    variant = params.ablations.variants.get(method) if method in params.grid.ablations else None
    start = variant.start if variant else _STARTS.get(method, "vanilla")
    found = _chain(start, pair) if start else []
    if (models := params.baselines.models(method)) != "none":
        folders = params.evaluate.shares if models == "per_share" else [ALL]
        found += [f"artifacts/{method}/{pair}/{folder}" for folder in folders]
    elif variant:
        found += [f"artifacts/{method}/{pair}/{stage}" for stage in variant.stages]
    elif method in ("vanilla", "ours"):
        found.append(f"artifacts/{method}/{pair}")
    return found


def _chain(last: str, pair: str) -> list[str]:
    """Directories of our method's training up to one of them."""
    return [f"artifacts/{folder}/{pair}" for folder in CHAIN[: CHAIN.index(last) + 1]]


def budget(views: Sequence[View]) -> Table:
    """Steps, rows, tokens, minutes and learning rates of each method, in total and per model."""
    rows: list[list[Any]] = []
    for view in views:
        params, backbone = view.found.params, view.backbone
        shared = [[f"artifacts/vanilla/{backbone}-{seed}"] for seed in params.grid.seeds]
        rows.append([backbone, "shared by all", *_totals(view, shared, 1)])
        for method in (m for m in view.methods if m not in ("vanilla", "random")):
            pairs = [f"{backbone}-{seed}" for seed in params.grid.seeds]
            own = [[d for d in trained(params, method, p) if d != f"artifacts/vanilla/{p}"] for p in pairs]
            models = len(own[0]) if params.baselines.models(method) == "per_share" else 1
            rows.append([backbone, title(method), *_totals(view, own, models)])
    return Table(
        "budget", "What each method's training cost",
        "Mean over seeds. The fine-tuning that vanilla is, is every method's start and counted in no other row. Stages "
        "that methods share (the adapters' start, skip pretraining) are counted for each that builds on them. Rows and "
        "tokens are those of the optimizer's steps, each counted once: RL and MIXER pass a row several times "
        "(rollouts), skip pretraining three times; the minutes hold that. Per model: a method with one model per share "
        "trains each from the fine-tuned one. Methods that train nothing run on weights that are counted above.",
        ["backbone", "method", "what is trained", "models", "steps", "rows", "tokens, thousands", "minutes",
         "steps per model", "rows per model", "tokens per model, thousands", "minutes per model", "learning rate"],
        rows,
    )  # fmt: skip


def _totals(view: View, own: list[list[str]], models: int) -> list[Any]:
    """What the directories of each seed add up to."""
    if not own[0]:
        return ["nothing", 0, *[0, 0, 0.0, 0.0] * 2, None]
    totals, rates = [], dict[float, None]()
    for directories in own:
        records = [view.found.provenance.get(directory, {}) for directory in directories]
        if all("training" in record for record in records):
            runs = [record["training"] for record in records]
            steps, rows, tokens = (float(sum(run[key] for run in runs)) for key in ("steps", "rows", "tokens"))
            totals.append([steps, rows, tokens / 1000, sum(record["seconds"] for record in records) / 60])
            rates |= dict.fromkeys(float(run["lr"]) for run in runs)
    mean = np.mean(totals, axis=0) if totals else np.full(4, np.nan)
    parts = dict.fromkeys(_part(view.found.params, directory) for directory in own[0])
    rate = ", ".join(f"{rate:g}" for rate in rates) or np.nan
    sums = [float(x) for x in (*mean, *mean / models)]
    counts = [round(x) if i % 4 < 2 and x.is_integer() else x for i, x in enumerate(sums)]  # steps and rows
    return [", ".join(parts), models, *counts, rate]


def _part(params: Params, directory: str) -> str:
    """The name of what is trained in a directory."""
    _, folder, _, *inner = directory.split("/")
    if params.baselines.models(folder) != "none":
        return _OF_BASELINES.get(folder, "fine-tuning with layers dropped")
    return (inner[0] if inner else _NAMES.get(folder, folder)).replace("_", " ")


def cost(views: Sequence[View]) -> Table:
    """What each run of the pipeline took, from its provenance."""
    rows: list[list[Any]] = [
        [path, record["stage"], record["seconds"] / 60, record["peak_memory_mb"] / 1024, record["device"]]
        for path, record in views[0].found.provenance.items()
    ]
    if rows:
        rows.append(["all", "", sum(row[2] for row in rows), max(row[3] for row in rows), ""])
    return Table(
        "cost", "What it cost",
        "Wall clock of each run that trains, evaluates or times, and the peak memory of its process. The stages that "
        "prepare the backbone and the rows, and draw this report, add about a minute. Runs may have overlapped.",
        ["run", "stage", "minutes", "peak memory, GiB", "device"],
        rows,
    )  # fmt: skip
