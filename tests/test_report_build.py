"""The report, from random but valid evaluation directories."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_world import parameters, write_world

from dlskip import config, report
from dlskip.errors import DlskipError
from dlskip.metrics import mt_metrics
from dlskip.report import collect, headline, stats, style, tables
from dlskip.report.table import NOT_RUN
from dlskip.report.view import VANILLA, View

FIGURES = ["headline", "quality_vs_skip", "layer_heatmap", "token_depth", "training", "rl_sampling", "speed"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[config.Params, Path]:
    root, params = tmp_path_factory.mktemp("world"), parameters()
    write_world(root, params)
    stale = root / "evaluations" / "ours" / "smollm2-7"
    stale.mkdir(parents=True)
    (stale / "rows.csv").write_text("of a seed that the grid no longer has\n")
    report.build(params, root)
    return params, root / "reports"


class Page(HTMLParser):
    """Collects what a self-contained, accessible page must have."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[int] = []
        self.open: list[str] = []
        self.ids: set[str | None] = set()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.urls += [str(given[k]) for k in ("src", "href") if k in given]
        self.ids.add(given.get("id"))
        if tag == "img":
            self.images.append(given)
        if tag in {"h1", "h2", "h3", "h4"}:
            self.headings.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_results_are_the_cells_of_the_grid(built):
    params, reports = built
    results = pd.read_csv(reports / "results.csv", dtype={"setting": str, "batch": str})
    assert list(results.columns) == collect.RESULTS
    assert set(results["seed"]) == {0}
    cells = pd.concat(
        pd.read_csv(reports.parent / "evaluations" / m / "smollm2-0" / "rows.csv", dtype={"setting": str, "batch": str})
        for m in params.grid.methods
    )
    pd.testing.assert_frame_equal(results, cells.reset_index(drop=True))
    assert list(pd.read_csv(reports / "curves.csv").columns) == collect.CURVES
    assert list(pd.read_csv(reports / "layers.csv").columns) == collect.LAYERS


def test_tables_equal_recomputation_from_results(built):
    _, reports = built
    results = pd.read_csv(reports / "results.csv", dtype={"setting": str, "batch": str})
    f1 = results[(results["metric"] == "f1_macro") & (results["task"] == "entailment") & (results["setting"] != "full")]
    per_setting = 100 * f1.groupby(["method", "batch"])["value"].agg(["mean", "max"])
    table = pd.read_csv(reports / "tables" / "nlu.csv").set_index("method")
    for method, key in {
        "ours bs=1": ("ours", "1"),
        "ours bs=16": ("ours", "16"),
        "random": ("random", "per_sample"),
    }.items():
        assert table.loc[method, "Entailment AVG"] == pytest.approx(per_setting.loc[key, "mean"], abs=1e-5)
        assert table.loc[method, "Entailment BEST"] == pytest.approx(per_setting.loc[key, "max"], abs=1e-5)
    std = pd.read_csv(reports / "layers.csv", dtype={"setting": str, "batch": str}).query(
        "method == 'ours' and setting == '0.5' and batch == '1' and task == 'en-zh'"
    )["skip_std"]
    table = pd.read_csv(reports / "tables" / "variance.csv").set_index("task")
    assert table.loc["English to Chinese", "ours at 0.5"] == pytest.approx(std.mean(), abs=1e-5)
    cost = pd.read_csv(reports / "tables" / "cost.csv").set_index("cell")["minutes"]
    assert cost["all"] == pytest.approx(cost.drop("all").sum(), abs=1e-4)
    mean = 100 * results.query("method == 'vanilla' and metric == 'f1_macro'")["value"].mean()
    head = pd.read_csv(reports / "tables" / "headline.csv").set_index("method")
    assert head.loc["vanilla", "NLU macro F1"] == pytest.approx(mean, abs=1e-5)


def test_metrics_are_nested_floats_and_the_choice_skips_enough(built):
    _, reports = built
    numbers = json.loads((reports / "metrics.json").read_text())
    assert all(isinstance(v, float) for section in numbers.values() for v in section.values())
    assert {"nlu_f1", "mt_bleu", "skip_ratio", "speedup"} <= numbers["ours"].keys()
    assert numbers["ours"]["nlu_skip_ratio"] >= 0.25
    assert numbers["headline"]["chosen_on_these_rows"] == 1.0
    delta = numbers["ours"]["nlu_f1"] - numbers["vanilla"]["nlu_f1"]
    assert numbers["delta_vs_vanilla"]["nlu_f1"] == pytest.approx(delta, abs=1e-3)
    delta = numbers["ours"]["mt_bleu"] - numbers["random"]["mt_bleu"]
    assert numbers["delta_vs_random"]["mt_bleu"] == pytest.approx(delta, abs=1e-3)


def test_page_is_self_contained_and_accessible(built):
    _, reports = built
    text = (reports / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    assert all(url.startswith(("data:", "#")) for url in page.urls)
    assert all(url[1:] in page.ids for url in page.urls if url.startswith("#"))
    assert "url(" not in text and "@import" not in text and "script" not in page.tags
    assert all(image.get("alt") for image in page.images) and len(page.images) == len(FIGURES)
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(page.headings, page.headings[1:], strict=False))
    assert "A &lt;b&gt;." in text and "none-skip" in text


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn(built, name):
    _, reports = built
    for suffix in ("png", "svg"):
        assert (reports / "figures" / f"{name}.{suffix}").stat().st_size > 2000


def test_equal_inputs_give_equal_outputs(built, tmp_path):
    params, reports = built
    write_world(tmp_path, params)
    report.build(params, tmp_path)
    files = [p for p in (tmp_path / "reports").rglob("*") if p.is_file()]
    assert files and all(p.read_bytes() == (reports / p.relative_to(tmp_path / "reports")).read_bytes() for p in files)


def test_missing_cells_are_shown_as_not_run(tmp_path):
    params = parameters()
    write_world(tmp_path, parameters(methods=["vanilla"]))
    report.build(params, tmp_path)
    reports = tmp_path / "reports"
    for table in ("headline", "nlu", "mt", "settings", "speed"):
        assert NOT_RUN in (reports / "tables" / f"{table}.csv").read_text()
        assert "Not run: evaluations/ours/smollm2-0" in (reports / "tables" / f"{table}.md").read_text()
    assert "ours was not run" in (reports / "index.html").read_text()
    assert "ours" not in json.loads((reports / "metrics.json").read_text())


def test_nothing_on_disk_still_gives_a_report(tmp_path):
    report.build(parameters(), tmp_path)
    assert NOT_RUN in (tmp_path / "reports" / "tables" / "headline.md").read_text()


def test_seeds_have_spread(tmp_path):
    params = parameters(seeds=[0, 1])
    write_world(tmp_path, params, n=12)
    view = View(collect.collect(params, tmp_path), "smollm2")
    frame = tables.nlu([view]).frame()
    assert "Entailment AVG std" in frame.columns
    assert "±" in tables.nlu([view]).markdown()


def test_every_backbone_has_its_rows_and_numbers(tmp_path):
    params = parameters(backbones=["smollm2", "other"])
    write_world(tmp_path, params, n=12)
    report.build(params, tmp_path)
    reports = tmp_path / "reports"
    assert set(pd.read_csv(reports / "tables" / "nlu.csv")["backbone"]) == {"smollm2", "other"}
    assert "nlu_f1" in json.loads((reports / "metrics.json").read_text())["other"]["ours"]
    assert Page((reports / "index.html").read_text()).open == []


def test_paper_numbers_only_beside_its_own_tasks(built):
    _, reports = built
    assert "Llama2" not in (reports / "tables" / "nlu.md").read_text()
    rows = tables._paper_rows("nlu", ["rte", "qnli"], 2)
    ours = next(r for r in rows if r[1].endswith("Ours bs=1"))
    assert ours == ["", "paper, Llama2-7B-Chat: Ours bs=1", 68.8, 77.5, None, None, None]


def test_bootstrap_scores_equal_the_evaluations(built):
    params, reports = built
    view = View(collect.collect(params, reports.parent), "smollm2")
    for run in (VANILLA, view.headline.ours, view.headline.random):
        for task in view.tasks:
            assert view.bootstrap.scores(run, task)[0] == pytest.approx(
                view.one(run, view.quality(task), [task]), abs=1e-6
            )
    same = view.bootstrap.difference(VANILLA, VANILLA, view.nlu)
    assert same == (0, 0, 0) and same.covers_zero


def test_bleu_of_draws_handles_empty_output():
    weights = np.array([[1.0, 1.0], [2.0, 0.0]])
    words = "a small dog runs home"
    assert stats.bleu(["", words], [words, words], "en", weights) == pytest.approx(
        [mt_metrics(["", words], [words, words], "en")[0]["bleu"], 0.0]
    )


def test_words_follow_the_numbers():
    assert headline.verdict(stats.Estimate(-2, -3, -1)) == "below"
    assert headline.verdict(stats.Estimate(2, 1, 3)) == "above"
    assert headline.verdict(stats.Estimate(0.5, -1, 2)) == "not distinguishable from"


def test_text_that_no_font_has_is_escaped():
    assert style.escaped("a\U0010fffd") == "aU+10FFFD "


def test_broken_cells_are_named(tmp_path):
    params = parameters()
    write_world(tmp_path, params)
    path = tmp_path / "evaluations" / "ours" / "smollm2-0" / "rows.csv"
    path.write_text("method,value\nours,1\n")
    with pytest.raises(DlskipError, match=r"rows\.csv.*columns"):
        collect.collect(params, tmp_path)


def test_the_headline_goes_between_the_readmes_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# x\n<!-- headline:begin (note) -->\nold\n<!-- headline:end -->\nrest\n")
    for table in ("| a |\n", "| b |\n"):
        headline.fill_readme(readme, table)
        assert readme.read_text() == f"# x\n<!-- headline:begin (note) -->\n{table}<!-- headline:end -->\nrest\n"
