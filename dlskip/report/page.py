"""The one page a person reads: self-contained, from the same tables, figures and numbers; its script is a small one."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dlskip import __version__
from dlskip.data.tasks import TASKS
from dlskip.methods.names import title as method_title
from dlskip.plotting import theme
from dlskip.report import headline, notes
from dlskip.report.claims import SAME, Claim
from dlskip.report.compare import NO_RANGE
from dlskip.report.explorer import chart, embed, library, slug
from dlskip.report.figures import Drawn
from dlskip.report.figures_layers import headline_traces, shown, word
from dlskip.report.stats import signed
from dlskip.report.table import NOT_REACHED, NOT_RUN, Table
from dlskip.report.view import View, short

SHOWN = 6  # translated sentences on the page
SHORT = {"better": "better", "worse": "worse", SAME: "same"}  # verdicts at a glance


class Section(NamedTuple):
    """A part of the page: its name in the list of sections, its heading, and the figures and tables that it shows."""

    name: str
    heading: str
    figures: Sequence[str] = ()
    tables: Sequence[str] = ()


# A table that is not named here stands under "All other tables".
SECTIONS = {
    "numbers": Section("Headline", "Headline", ["headline"], ["headline"]),
    "explore": Section("Compare", "Compare methods"),
    "claims": Section("Claims", "What is claimed"),
    "tasks": Section(
        "Per task", "Quality against skipped share, per task", ["quality_vs_skip", "figure3"],
        ["figure3", "matched", "auc", "nlu", "mt", "per_backbone"],
    ),
    "speed": Section("Speed", "Measured speed", ["pareto", "speed"], ["measured_speed"]),
    "layers": Section("Layers", "Which layers are skipped", ["method_heatmap"], ["variance"]),
    "tokens": Section("Tokens", "How deep each token goes", ["token_depth"]),
    "training": Section("Training", "Training", ["training", "figure4"], ["budget"]),
    "ablations": Section("Ablations", "Ablations", ["ablations", "prices"], ["ablations"]),
    "rows": Section("Data", "Data"),
    "tables": Section("Other tables", "All other tables"),
    "provenance": Section("Provenance", "Provenance", [], ["cost"]),
    "meaning": Section("How to read", "How to read these numbers"),
}  # fmt: skip


def render(views: Sequence[View], made: Sequence[Table], said: Sequence[Claim], drawn: Mapping[str, Drawn]) -> str:
    """The page's HTML, of a view per backbone; headline and figures are of the first one."""
    environment = Environment(
        loader=PackageLoader("dlskip.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    view, found = views[0], views[0].found
    environment.filters |= {
        "image": lambda svg: "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(),
        "json": lambda value: json.dumps(value, indent=1, ensure_ascii=False),
        "embed": embed, "numeric": numeric, "entry_class": entry_class, "slug": slug,
    }  # fmt: skip
    return environment.get_template("index.html.j2").render(
        version=__version__,
        recipe=found.params.recipe,
        embedded=[t for t in view.tasks if t in TASKS and TASKS[t].embedded],
        views=views,
        sentences=[(v.backbone, headline.sentences(v)) for v in views],
        choice=headline.choice(view),
        claims=grouped(said),
        glances=glances(said),
        sections={id: section for id, section in SECTIONS.items() if id != "ablations" or id in drawn},
        tables=placed(made),
        pictures=drawn,
        chart=chart(views),
        library=library(),
        dark=theme.DARK,
        smoke=notes.smoke(views),
        traces=[_trace(t) for t in _more(headline_traces(view))],
        found=found,
        prepared=prepared(found.manifest),
        overlap=overlap(found.overlap),
        seeds=found.params.grid.seeds,
    )


def placed(made: Sequence[Table]) -> dict[str, list[Table]]:
    """The tables that have rows, by the section that shows them; every one of them once."""
    by_name = {table.name: table for table in made if table.rows}
    places = {id: [by_name.pop(n) for n in section.tables if n in by_name] for id, section in SECTIONS.items()}
    return places | {"tables": list(by_name.values())}


def glances(said: Sequence[Claim]) -> list[tuple[str, list[str], list[list[str]]]]:
    """By backbone: the heads and rows of a table with a row per method and a link to each of its claims."""
    found = []
    for backbone in dict.fromkeys(claim.backbone for claim in said):
        own = {(c.method, comparison(c)): _link(i, c) for i, c in enumerate(said) if c.backbone == backbone}
        methods, columns = dict.fromkeys(m for m, _ in own), list(dict.fromkeys(column for _, column in own))
        rows = [[method_title(m), *(own.get((m, column), "–") for column in columns)] for m in methods]
        found.append((backbone, ["method", *columns], rows))
    return found


def _link(number: int, claim: Claim) -> Markup:
    """A verdict in a word, and by how much; it leads to the claim of this number."""
    verdict, look = claim.verdict, {"better": "win", "worse": "lose"}.get(claim.verdict, "even")
    text = f"{SHORT[verdict]} {signed(claim.difference.value)}" if verdict in SHORT else verdict
    return Markup('<a href="#claim-{}" class="{}">{}</a>').format(number, look, text)


def comparison(claim: Claim) -> str:
    """What a claim compares, as the head of a column."""
    if claim.how.startswith("area"):
        return f"{claim.group.label}: area"
    return f"{claim.group.label}: at ours' share" if claim.how.startswith("at ") else claim.group.label


def grouped(said: Sequence[Claim]) -> list[tuple[str, str, list[tuple[int, Claim]]]]:
    """(heading, class, numbered claims) by verdict, wins first; the last are those that could not be made."""
    heads = {"better": ("Ours is better", "win"), "worse": ("Ours is worse", "lose"), SAME: ("Not distinguishable", "")}
    groups = [(*head, [(i, c) for i, c in enumerate(said) if c.verdict == verdict]) for verdict, head in heads.items()]
    groups.append(("Not compared", "", [(i, c) for i, c in enumerate(said) if c.verdict not in heads]))
    return [group for group in groups if group[-1]]


def numeric(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each column of a table is set like numbers."""
    columns = zip(*rows, strict=True)
    return [any(map(_number, column)) and all(_number(x) or x == "–" for x in column) for column in columns]


def _number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in {"+", "−", "-"} or text in (NOT_RUN, NOT_REACHED, NO_RANGE)


def entry_class(text: str, number: bool) -> Markup:
    """The class attribute of a table's entry, with a space before it, if it needs one."""
    wide = ("[" in text or len(text) > 40) and not isinstance(text, Markup)
    names = [name for name, wanted in (("num", number), ("wrap", wide), ("notrun", text == NOT_RUN)) if wanted]
    return Markup(' class="{}"').format(" ".join(names)) if names else Markup("")


def prepared(manifest: Mapping[str, Any]) -> list[list[str]]:
    """A row per split: how many rows, their labels and tokens, and what was noted while they were made."""
    rows = []
    for name, split in manifest.get("splits", {}).items():
        labels = ", ".join(f"{label} {count}" for label, count in split["labels"].items())
        tokens = ", ".join(f"{q['median']:.0f} ({q['max']:.0f})" for q in split["tokens"].values())
        remarks = "; ".join(f"{count} {remark}" for remark, count in split["notes"].items())
        rows.append([name, str(split["rows"]), labels or "–", tokens, remarks or "–"])
    return rows


def overlap(shared: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """A row per task of how many prompts two splits share, below the heads; empty if it is not known."""
    heads = [["task", *(key.replace("_", " ") for key in counts)] for counts in shared.values()][:1]
    return heads + [[task, *map(str, counts.values())] for task, counts in shared.items()]


def _more(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few traces beside the one of the figure, taken from every task in turn."""
    others = [t for t in traces if t is not shown(traces)]
    by_task = [[t for t in others if t["task"] == task] for task in dict.fromkeys(t["task"] for t in others)]
    return [t for turn in itertools.zip_longest(*by_task) for t in turn if t][:SHOWN]


def _trace(trace: dict[str, Any]) -> dict[str, Any]:
    """A trace as chips: (token, layers run, share of layers run in whole %)."""
    layers, depths = len(trace["ran"][0]), [sum(ran) for ran in trace["ran"]]
    chips = [(word(t), d, round(100 * d / layers)) for t, d in zip(trace["tokens"], depths, strict=True)]
    about = {"task": short(trace["task"]), "prompt": trace["prompt"], "reference": trace["reference"]}
    return about | {"layers": layers, "chips": chips}
