"""The one page a person reads: self-contained, without scripts, from the same tables and figures."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dlskip import __version__
from dlskip.data.tasks import TASKS
from dlskip.report import headline
from dlskip.report.table import Table
from dlskip.report.traces import LOST, headline_traces
from dlskip.report.view import View, batch_label, short

SHOWN = 6  # translated sentences on the page


class Picture(NamedTuple):
    """A figure in the page: file name without suffix, what it shows, and how to read it."""

    name: str
    alt: str
    caption: str


def render(views: Sequence[View], made: Sequence[Table], figures: Path) -> str:
    """The page's HTML.

    Args:
        views: One per backbone; headline and figures are of the first.
        made: All tables; the first is the headline.
        figures: Directory with the figures' SVG files.
    """
    environment = Environment(
        loader=PackageLoader("dlskip.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    view = views[0]
    found, params = view.found, view.found.params
    environment.filters["image"] = lambda name: Markup(_data_uri(figures / f"{name}.svg"))
    environment.filters["json"] = lambda value: json.dumps(value, indent=1, ensure_ascii=False)
    environment.filters["numeric"] = lambda text: text[:1].isdigit() or text[:1] in "+−"
    return environment.get_template("index.html.j2").render(
        version=__version__,
        recipe=params.recipe,
        embedded=[t for t in view.tasks if t in TASKS and TASKS[t].embedded],
        view=view,
        views=views,
        sentences=[(v.backbone, headline.sentences(v)) for v in views],
        choice=headline.choice(view),
        batch=batch_label(view.headline.ours.batch),
        tables={table.name: table for table in made},
        pictures={p.name: p for p in _pictures(view)},
        traces=[_trace(t) for t in _spread(headline_traces(view))],
        alarms=found.alarms,
        missing=found.missing,
        splits=found.manifest.get("splits", {}),
        manifest=found.manifest,
        overlap=found.overlap,
        provenance=[(cell, record) for cell, record in found.provenance.items()],
        seeds=params.grid.seeds,
    )


def _data_uri(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def _pictures(view: View) -> list[Picture]:
    """The figures with alternative texts that carry their numbers."""
    h = view.headline
    means = headline.sentences(view)
    return [
        Picture("headline", " ".join(means), "Left: every threshold of ours and its random control, with 95 % "
                "intervals. Right: the share of samples that skip each layer; at the right edge its mean."),
        Picture("quality_vs_skip", "Small charts, one per task: quality against the share of layers skipped for ours "
                "(all batch rules), the random control and vanilla. The settings table holds the numbers.",
                "Each point is a threshold. Majority batches (bs=8, 16) decide once for the whole batch."),
        Picture("layer_heatmap", f"Heat map of the skip rate per layer and task at threshold {h.ours.setting}. The "
                "file reports/layers.csv holds the numbers.",
                "Rows that differ mean that tasks use different layers; the skip-variance table says how much samples "
                "of one task differ."),
        Picture("token_depth", "Chart of which layers ran for each token of one translated sentence.",
                "One column per token that decides; the prompt decides once."),
        Picture("training", "Line charts of loss, skip rates, reward and held-out cross entropy for each stage.",
                "The sampled rate is what training sees, the thresholded one what inference does; an alarm is raised "
                "when they part or when either collapses."),
        Picture("rl_sampling", "Line charts of policy-gradient loss, reward and skip rate for RL with and without the "
                "sampling strategy.", "The paper's figure 4, with shorter runs from the same start."),
        Picture("speed", "Measured speed-up against the share of layers skipped, with the ideal line 1/(1-s).",
                "Below 1 means slower than the same model unskipped. The gap to the line is what embedding, LM head, "
                "key/value filling, gathering of rows and the controllers cost on this machine."),
    ]  # fmt: skip


def _spread(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few traces, taken from every task in turn."""
    tasks = list(dict.fromkeys(t["task"] for t in traces))
    by_task = [[t for t in traces if t["task"] == task] for task in tasks]
    turns = [ts[i] for i in range(max(map(len, by_task), default=0)) for ts in by_task if i < len(ts)]
    return turns[:SHOWN]


def _trace(trace: dict[str, Any]) -> dict[str, Any]:
    """A trace as chips: (token, layers run, share of layers run in whole %)."""
    layers = len(trace["ran"][0])
    depths = [sum(ran) for ran in trace["ran"]]
    tokens = [token.replace(LOST, "·").strip() or "␣" for token in trace["tokens"]]
    return {
        "task": short(trace["task"]), "prompt": trace["prompt"], "reference": trace["reference"], "layers": layers,
        "chips": [(t, d, round(100 * d / layers)) for t, d in zip(tokens, depths, strict=True)],
    }  # fmt: skip
