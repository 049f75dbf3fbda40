"""The page: self-contained, accessible without its script, and its numbers those of the tables."""

from __future__ import annotations

import base64
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlskip import report
from dlskip.methods.names import title
from dlskip.report import claims, collect, explorer, figures, page
from dlskip.report.table import Table
from dlskip.report.view import View
from tests.helpers.report_world import parameters, write_world

pytestmark = pytest.mark.slow

VOID = {"meta", "img", "br", "link", "input", "source"}
MOST = 4 * 2**20  # bytes that a reader may have to load; the chart's library is 0.9 MB of them


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
    for element in read.all("a", "img", "source", "link", "script", "use", "iframe"):
        for name in ("src", "srcset", "href", "xlink:href"):
            assert name not in element or str(element[name]).startswith(("data:", "#"))
    styles = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in styles and "@import" not in styles
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


def test_tables_have_captions_and_scopes(read):
    assert len(read.all("table")) == len(read.all("caption"))
    assert all(th.get("scope") in ("col", "row") for th in read.all("th"))


def test_every_table_is_shown_once(world, html):
    tables = {path.stem for path in (world[0] / "tables").glob("*.md")} - {"summary"}  # README's part of the headline
    for name in tables:
        assert html.count(f"reports/tables/{name}.csv") == 1


def test_text_is_escaped(world, html):
    assert "A &lt;b&gt;." in html and "python -m stages.x &lt;a &amp; b&gt;" in html
    written = [path for path in world[0].rglob("*") if path.suffix in (".html", ".md", ".svg")]
    assert {path.suffix for path in written} == {".html", ".md", ".svg"}
    for path in written:
        assert "<script>alert" not in path.read_text(), path
    assert "&lt;script&gt;alert" in (world[0] / "tables" / "cost.md").read_text()
    assert "&lt;script&gt;alert" in (world[0] / "figures" / "token_depth.svg").read_text()


def test_every_claim_is_shown_once_under_its_verdict(world, html):
    said = claims.find(world[1])
    groups = page.grouped(said)
    assert sorted(number for _, _, group in groups for number, _ in group) == list(range(len(said)))
    by_head = {head: [claim for _, claim in group] for head, _, group in groups}
    assert all(c.difference.low > 0 for c in by_head["Ours is better"])
    assert all(c.difference.high < 0 for c in by_head["Ours is worse"])
    linked = re.findall('href="#claim-(\\d+)"', str([rows for _, _, rows in page.glances(said)]))
    assert sorted(map(int, linked)) == list(range(len(said)))
    assert all(html.count(f'href="#claim-{n}"') == html.count(f'id="claim-{n}"') == 1 for n in linked)


def test_claims_link_to_the_runs_they_rest_on(world, html):
    said = claims.find(world[1][:1])
    text = page.render(
        world[1][:1], [], said, {n: figures.Drawn("<svg/>", "<svg/>", n, n) for n in figures.makers(world[1][0])}
    )
    for run in {run for claim in said for run in claim.runs}:
        assert f'href="#{explorer.slug(run)}"' in text and f'id="{explorer.slug(run)}"' in html


@settings(deadline=None, max_examples=50)
@given(st.recursive(st.text() | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_embedded_json_cannot_end_its_element(value):
    text = explorer.embed(value)
    assert not set("<>&\u2028\u2029") & set(text) and json.loads(text) == value


def test_embedded_json_has_no_numbers_that_json_lacks():
    with pytest.raises(ValueError, match="Out of range"):
        explorer.embed(float("nan"))


def test_columns_of_numbers_are_set_as_numbers():
    rows = [["a", "1.5", "x", "–"], ["b", "–", "2", "not run"], ["c", "not reached", "–", "+1.0 [−1.0, +3.0]"]]
    assert page.numeric(rows) == [False, True, False, True]


def test_rows_that_only_their_backbone_names_keep_it(tmp_path):
    """One backbone needs no column, unless other rows of the table stand for other models."""
    report.build(parameters(), tmp_path)
    part = (tmp_path / "reports" / "index.html").read_text().split("<caption><span>Backbones (the paper", 1)[1]
    assert "Falcon-7B" in part[: part.index("</table>")]


def test_tables_without_a_place_stand_with_the_others():
    tables = [Table("new", "t", "n", ["a"], [["x"]]), Table("cost", "t", "n", ["a"], [["x"]])]
    placed = page.placed([*tables, Table("empty", "t", "n", ["a"], [])])
    assert placed["tables"] == tables[:1] and placed["provenance"] == tables[1:]
    assert sum(map(len, placed.values())) == 2


def test_pictures_have_words_and_are_drawings_in_two_widths(world, read):
    images, sources = read.all("img"), read.all("source")
    drawn = {path.stem for path in (world[0] / "figures").iterdir()}
    assert set(figures.makers(world[1][0])) == drawn and len(images) == len(sources) == len(drawn)
    for image, source in zip(images, sources, strict=True):
        assert len(str(image["alt"])) > 20
        wide, narrow = (_drawing(str(uri)) for uri in (image["src"], source["srcset"]))
        assert float(str(narrow.get("width"))[:-2]) < 400
        assert any("prefers-color-scheme:dark" in str(part.text) for part in wide)


def _drawing(uri: str) -> ElementTree.Element:
    head, body = uri.split(",", 1)
    assert head == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(body))


def test_the_charts_numbers_are_the_results(world):
    points = explorer.points(world[1])
    for view in world[1]:
        for at in view.every():
            own = points[(points["backbone"] == view.backbone) & (points["method"] == title(at.method))]
            own = own[(own["setting"] == at.setting.label()) & (own["task"] == "Entailment")]
            own = own[own["rule"] == (at.batch if at.method == "ours" else "any")]
            assert len(own) == 1
            assert own["quality"].iloc[0] == pytest.approx(view.one(at, "f1_macro", ["entailment"]), abs=0.006)
            assert own["share"].iloc[0] == pytest.approx(view.share(at, ["entailment"]), abs=0.006)


def test_the_charts_speeds_are_the_timed_ones_of_a_like_share(world):
    points, view = explorer.points(world[1][:1]), world[1][0]
    own = points[
        (points["method"] == "ShortGPT") & (points["setting"] == "share 0.3") & (points["task"] == "Entailment")
    ]
    at = next(c for c in view.conditions("shortgpt", "8") if c.setting.share == 0.3)
    assert own["speedup_8"].iloc[0] == pytest.approx(view.speed(at, "speedup_prefill"), abs=6e-4)


def test_points_lead_to_records_that_the_page_shows(world, read):
    ids = {element["id"] for _, element in read.elements if "id" in element}
    assert {link[1:] for link in explorer.points(world[1])["link"]} <= ids


def test_nothing_on_disk_still_gives_a_page(tmp_path):
    report.build(parameters(), tmp_path)
    text = (tmp_path / "reports" / "index.html").read_text()
    assert Page(text).open == [] and "not run" in text.lower() and "Nothing to compare was run" in text
