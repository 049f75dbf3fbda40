"""The page: self-contained, accessible without its script, and its numbers those of the tables."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlskip import report
from dlskip.methods.settings import FULL, KNOBS, from_columns
from dlskip.report import claims, collect, page, payload, pictures, svg
from dlskip.report.stats import Run
from dlskip.report.table import Table
from dlskip.report.view import View
from tests.helpers.report_world import parameters, write_world

VOID = {"meta", "img", "br", "link", "input"}
MOST = 2.5 * 2**20  # bytes that a reader may have to load


class Page(HTMLParser):
    """Collects what a self-contained, accessible page must have; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open[-1:] == ["script"] else self.text).append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [element for tag, element in self.elements if tag in tags]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[View]]:
    root, params = tmp_path_factory.mktemp("world"), parameters(backbones=["smollm2", "other"], seeds=[0, 1])
    write_world(root, params, n=16)
    report.build(params, root)
    found = collect.collect(params, root)
    return root / "reports", [View(found, backbone) for backbone in params.grid.backbones]


@pytest.fixture(scope="module")
def html(world) -> str:
    return (world[0] / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(html) -> Page:
    return Page(html)


def test_it_loads_nothing(html, read):
    assert read.open == []
    for element in read.all("a", "img", "link", "script", "use", "iframe"):
        for name in ("src", "href", "xlink:href"):
            assert name not in element or str(element[name]).startswith(("data:", "#"))
    styles = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in styles and "@import" not in styles
    assert "fetch(" not in html and "XMLHttpRequest" not in html and "import(" not in html
    policy = next(m for m in read.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")
    assert len(html.encode()) < MOST


def test_its_parts_can_be_found(read):
    ids = [element["id"] for _, element in read.elements if "id" in element]
    assert len(ids) == len(set(ids))
    links = [str(a["href"]) for a in read.all("a")]
    assert links and all(link[1:] in ids for link in links)
    assert len(read.all("main")) == len(read.all("h1")) == 1 and read.all("header") and read.all("nav")
    assert read.all("a")[0] == {"class": "skip", "href": "#main"}
    for _, element in read.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert name not in element or element[name] in ids


def test_headings_go_down_one_step_at_a_time(read):
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_pictures_have_words_and_are_drawings(world, read):
    images = read.all("img")
    drawn = {path.stem for path in (world[0] / "figures").glob("*.svg")}
    assert {p.name for p in pictures.pictures(world[1][0])} == drawn and len(images) == len(drawn)
    for image in images:
        assert len(str(image["alt"])) > 20
        head, body = str(image["src"]).split(",", 1)
        assert head == "data:image/svg+xml"
        assert ElementTree.fromstring(unquote(body)).tag.endswith("svg")


def test_tables_have_captions_and_scopes(read):
    assert len(read.all("table")) == len(read.all("caption"))
    assert all(th.get("scope") in ("col", "row") for th in read.all("th"))


def test_every_table_is_shown_once(world, html):
    tables = {path.stem for path in (world[0] / "tables").glob("*.md")} - {"summary"}  # README's part of the headline
    for name in tables:
        assert html.count(f"reports/tables/{name}.csv") == 1


def test_controls_have_names(read):
    labels = {element.get("for") for element in read.all("label")}
    assert all(element["id"] in labels for element in read.all("select"))
    inputs = read.all("input")
    assert len(read.all("label")) == len(read.all("select")) + len(inputs)
    assert {element["type"] for element in inputs} == {"radio", "checkbox"}


def test_text_is_escaped(html):
    assert "A &lt;b&gt;." in html and "python -m stages.x &lt;a &amp; b&gt;" in html


def test_every_claim_is_shown_once_under_its_verdict(world, html):
    said = claims.find(world[1])
    groups = page.grouped(said)
    assert sorted(number for _, _, group in groups for number, _ in group) == list(range(len(said)))
    by_head = {head: [claim for _, claim in group] for head, _, group in groups}
    assert all(c.difference.low > 0 for c in by_head["Ours is better"])
    assert all(c.difference.high < 0 for c in by_head["Ours is worse"])
    cells = [cell for glance in page.glances(said) for _, cells in glance.rows for cell in cells if cell]
    assert sorted(number for number, _ in cells) == list(range(len(said)))
    assert all(html.count(f'href="#claim-{number}"') == html.count(f'id="claim-{number}"') == 1 for number, _ in cells)


def test_claims_link_to_the_cells_they_rest_on(world, html):
    said = claims.find(world[1][:1])
    text = page.render(world[1][:1], [], said, world[0] / "figures")
    for cell in {cell for claim in said for cell in claim.cells}:
        assert f'href="#{page.slug(cell)}"' in text and f'id="{page.slug(cell)}"' in html


def embedded(html: str) -> dict[str, Any]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def test_the_scripts_numbers_are_the_results(world, html):
    data = embedded(html)
    results = pd.read_csv(world[0] / "results.csv", dtype={"batch": str})
    results["setting"] = [from_columns(*row).label() for row in results[[*KNOBS]].itertuples(index=False)]
    assert data["backbones"] == ["smollm2", "other"]
    assert [m["id"] for m in data["methods"]] == world[1][0].methods
    quality = results[results["metric"] == "f1_macro"]
    keys = ["backbone", "method", "setting", "batch", "task"]
    mean = quality.groupby(keys)[["value", "skip_ratio"]].mean() * 100
    checked = 0
    for backbone, points in data["points"].items():
        for p in points:
            share, value, spread, low, high, seeds = p["tasks"]["entailment"]
            row = mean.loc[(backbone, p["method"], p["setting"], p["batch"], "entailment")]
            assert (value, share) == pytest.approx((row["value"], row["skip_ratio"]), abs=0.006)
            assert seeds == 2 and spread is not None
            assert low is None or low <= value <= high
            checked += 1
    assert checked == 2 * len(payload.runs(world[1][0]))
    for method in world[1][0].methods:
        assert any(p["method"] == method for p in data["points"]["other"])


def test_the_scripts_speeds_are_the_timed_ones(world, html):
    view = world[1][0]
    by_label = {s.label(): s for s in (FULL, *view.thresholds, *view.shares, *view.prices)}
    for p in embedded(html)["points"]["smollm2"]:
        for batch, (prefill, decode, *shares) in p["speed"].items():
            run = Run(p["method"], by_label[p["setting"]], batch)
            assert prefill == pytest.approx(view.speed(run, "speedup_prefill").mean(), abs=6e-4)
            assert decode == pytest.approx(view.speed(run, "speedup_decode").mean(), abs=6e-4)
            timed = [view.speed(run, f"skip_{phase}").mean() for phase in ("prefill", "decode")]
            assert shares == pytest.approx(timed, abs=0.006)


def test_points_name_only_cells_that_the_page_shows(html, read):
    ids = {element["id"] for _, element in read.elements if "id" in element}
    for points in embedded(html)["points"].values():
        for p in points:
            assert p["cells"] and all(page.slug(cell) in ids for cell in p["cells"])
            assert p["cells"][0].startswith("evaluations/")


def test_a_static_model_comes_from_its_own_training_alone(html):
    points = embedded(html)["points"]["smollm2"]
    cells = next(p["cells"] for p in points if p["method"] == "static" and p["setting"] == "share 0.5")
    assert [c for c in cells if "/static/" in c and c.startswith("artifacts")] == [
        "artifacts/static/smollm2-0/0.5", "artifacts/static/smollm2-1/0.5",
    ]  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(st.recursive(st.text() | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_embedded_json_cannot_end_its_element(value):
    text = payload.embed(value)
    assert not set("<>&\u2028\u2029") & set(text) and json.loads(text) == value


def test_embedded_json_has_no_numbers_that_json_lacks():
    with pytest.raises(ValueError, match="Out of range"):
        payload.embed(float("nan"))


def test_a_drawing_in_an_attribute_is_the_drawing(world):
    path = world[0] / "figures" / "headline.svg"
    full, uri = path.read_text(), svg.data_uri(path.read_text())
    assert not set('"<>#&\n') & set(uri) and len(uri) < len(full)
    before, after = ElementTree.fromstring(full), ElementTree.fromstring(unquote(uri.split(",", 1)[1]))
    drawn = [[e for e in tree.iter() if e.tag.endswith(("}path", "}use", "}text"))] for tree in (before, after)]
    ids = {e.get("id") for e in after.iter()} - {None}
    assert len(ids) == len([e for e in after.iter() if e.get("id")])
    for a, b in zip(*drawn, strict=True):
        assert a.tag == b.tag
        assert (a.get("style") or "").replace(" ", "") == (b.get("style") or "")
        assert (a.get("d") or "").replace(" ", "") == (b.get("d") or "").replace(" ", "")
        link = b.get("href")
        assert (link is None) == (a.get("{http://www.w3.org/1999/xlink}href") is None)
        assert link is None or link[1:] in ids
    assert before.get("viewBox") == after.get("viewBox")


def test_tables_without_a_place_stand_with_the_others():
    tables = [Table("new", "t", "n", ["a"], [["x"]]), Table("cost", "t", "n", ["a"], [["x"]])]
    placed = page.placed([*tables, Table("empty", "t", "n", ["a"], [])])
    assert placed["tables"] == tables[:1] and placed["provenance"] == tables[1:]
    assert sum(map(len, placed.values())) == 2


def test_nothing_on_disk_still_gives_a_page(tmp_path):
    params = parameters()
    report.build(params, tmp_path)
    text = (tmp_path / "reports" / "index.html").read_text()
    assert Page(text).open == [] and "not run" in text.lower()
    assert embedded(text)["points"] == {"smollm2": []}
