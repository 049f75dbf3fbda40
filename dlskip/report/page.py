"""The one page a person reads: self-contained, from the same tables, figures and numbers; its script is a small one."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dlskip import __version__
from dlskip.data.tasks import TASKS
from dlskip.methods.names import title as method_title
from dlskip.report import headline, notes, style
from dlskip.report.claims import SAME, Claim
from dlskip.report.explorer import chart, embed, library, slug
from dlskip.report.figures import Drawn
from dlskip.report.table import NOT_REACHED, NOT_RUN, Table, signed
from dlskip.report.traces import LOST, headline_traces
from dlskip.report.view import View, short

SHOWN = 6  # translated sentences on the page
# Where a table is shown; one that is not named here stands under "All other tables".
PLACES = {
    "numbers": ["headline"],
    "claims": ["claims"],
    "tasks": ["matched", "auc", "nlu", "mt", "per_backbone"],
    "speed": ["measured_speed"],
    "layers": ["variance"],
    "training": ["budget"],
    "ablations": ["ablations"],
    "provenance": ["cost"],
}
SECTIONS = {
    "numbers": "Headline", "explore": "Compare", "claims": "Claims", "tasks": "Per task", "speed": "Speed",
    "layers": "Layers", "tokens": "Tokens", "training": "Training", "ablations": "Ablations", "rows": "Data",
    "tables": "Other tables", "provenance": "Provenance", "meaning": "How to read",
}  # fmt: skip


def render(views: Sequence[View], made: Sequence[Table], said: Sequence[Claim], drawn: Mapping[str, Drawn]) -> str:
    """The page's HTML.

    Args:
        views: One per backbone; headline and figures are of the first.
        made: All tables.
        said: What is claimed of ours against other methods.
        drawn: The figures.
    """
    environment = Environment(
        loader=PackageLoader("dlskip.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    view = views[0]
    found, params = view.found, view.found.params
    environment.filters |= {
        "image": lambda svg: "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(),
        "json": lambda value: json.dumps(value, indent=1, ensure_ascii=False),
        "embed": embed, "numeric": numeric, "cell_class": cell_class, "slug": slug, "signed": signed,
    }  # fmt: skip
    return environment.get_template("index.html.j2").render(
        version=__version__,
        recipe=params.recipe,
        embedded=[t for t in view.tasks if t in TASKS and TASKS[t].embedded],
        views=views,
        sentences=[(v.backbone, headline.sentences(v)) for v in views],
        choice=headline.choice(view),
        claims=grouped(said),
        glances=glances(said),
        sections=[(id, text) for id, text in SECTIONS.items() if id != "ablations" or id in drawn],
        tables=placed(made),
        pictures=drawn,
        looks=[(m, style.look(m)["color"]) for m in view.methods],
        chart=chart(views),
        library=library(),
        dark=style.DARK,
        smoke=notes.smoke(views),
        traces=[_trace(t) for t in _spread(headline_traces(view))],
        alarms=found.alarms,
        missing=found.missing,
        splits=found.manifest.get("splits", {}),
        manifest=found.manifest,
        overlap=found.overlap,
        provenance=list(found.provenance.items()),
        records=found.provenance,
        seeds=params.grid.seeds,
    )


def placed(made: Sequence[Table]) -> dict[str, list[Table]]:
    """The tables that have rows, by the section that shows them; every one of them once."""
    by_name = {table.name: table for table in made if table.rows}
    sections = {section: [by_name.pop(n) for n in names if n in by_name] for section, names in PLACES.items()}
    return sections | {"tables": list(by_name.values())}


class Glance(NamedTuple):
    """One backbone's claims in a grid: a row per method, a column per comparison, None where none was made."""

    backbone: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[int, Claim] | None]]]


def glances(said: Sequence[Claim]) -> list[Glance]:
    """The claims at a glance; each with its number among all of them."""
    found = []
    for backbone in dict.fromkeys(claim.backbone for claim in said):
        own = {(c.method, comparison(c)): (i, c) for i, c in enumerate(said) if c.backbone == backbone}
        methods, columns = dict.fromkeys(m for m, _ in own), list(dict.fromkeys(column for _, column in own))
        rows = [(method_title(m), [own.get((m, column)) for column in columns]) for m in methods]
        found.append(Glance(backbone, columns, rows))
    return found


def comparison(claim: Claim) -> str:
    """What a claim compares, as the head of a column."""
    if claim.how.startswith("area"):
        return f"{claim.tasks}: area"
    return f"{claim.tasks}: at ours' share" if claim.how.startswith("at ") else claim.tasks


def grouped(said: Sequence[Claim]) -> list[tuple[str, str, list[tuple[int, Claim]]]]:
    """(heading, class, numbered claims) by verdict, wins first; the last are those that could not be made."""
    groups = [("Ours is better", "win", "better"), ("Ours is worse", "lose", "worse")]
    groups.append(("Not distinguishable", "", SAME))
    numbered = list(enumerate(said))
    found = [(head, kind, [(i, c) for i, c in numbered if c.verdict == verdict]) for head, kind, verdict in groups]
    known = [verdict for _, _, verdict in groups]
    return [*found, ("Not compared", "", [(i, c) for i, c in numbered if c.verdict not in known])]


def numeric(text: str) -> bool:
    """Whether a cell is set like a number."""
    return text[:1].isdigit() or text[:1] in {"+", "−", "-", "–"} or text in (NOT_RUN, NOT_REACHED)


def cell_class(text: str) -> Markup:
    """The class attribute of a table's cell, with a space before it, if it needs one."""
    if text == NOT_RUN:
        return Markup(' class="num notrun"')
    if "[" in text or len(text) > 40:
        return Markup(' class="num wrap"' if numeric(text) else ' class="wrap"')
    return Markup(' class="num"' if numeric(text) else "")


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
