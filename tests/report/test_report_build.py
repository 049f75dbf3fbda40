"""The report as a whole, from random but valid evaluation directories."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from dlskip import config, report
from dlskip.errors import DlskipError
from dlskip.report import collect, headline
from dlskip.report.table import NOT_RUN
from dlskip.report.view import View
from tests.helpers.report_world import TRAINED, parameters, write_world

pytestmark = pytest.mark.slow

FIGURES = ["headline", "quality_vs_skip", "method_heatmap", "token_depth", "training", "figure4", "speed", "pareto"]
TABLES = [
    "headline", "nlu", "mt", "matched", "auc", "variance", "backbones", "per_backbone", "measured_speed",
    "settings", "glue_metrics", "ablations", "claims", "budget", "cost", "summary",
]  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[config.Params, Path]:
    root, params = tmp_path_factory.mktemp("world"), parameters()
    write_world(root, params)
    stale = root / "evaluations" / "ours" / "smollm2-7"
    stale.mkdir(parents=True)
    (stale / "rows.csv").write_text("of a seed that the grid no longer has\n")
    report.build(params, root)
    return params, root / "reports"


def test_results_are_the_runs_of_the_grid(built):
    params, reports = built
    results = pd.read_csv(reports / "results.csv", dtype={"batch": str})
    assert list(results.columns) == collect.RESULTS
    assert set(results["seed"]) == {0} and set(results["method"]) == {*params.grid.methods, "random"}
    folders = [f"evaluations/{m}/smollm2-0/{kind}" for m in params.grid.methods for kind in ("nlu", "mt")]
    folders += [f"speeds/{m}/smollm2-0" for m in params.grid.timed]
    rows = pd.concat(pd.read_csv(reports.parent / folder / "rows.csv", dtype={"batch": str}) for folder in folders)
    pd.testing.assert_frame_equal(results, rows[collect.RESULTS].reset_index(drop=True))
    assert list(pd.read_csv(reports / "layers.csv").columns) == collect.LAYERS


def test_curves_name_their_stage_and_variant(built):
    params, reports = built
    curves = pd.read_csv(reports / "curves.csv").fillna({"variant": "", "share": 0})
    assert list(curves.columns) == collect.CURVES
    found = set(curves[["stage", "variant", "share"]].itertuples(index=False, name=None))
    assert found == {
        *((stage, "", 0) for stage in collect.STAGES),
        ("vanilla_long", "", 0),
        *((name, "", share) for name in TRAINED for share in params.evaluate.shares),
        ("rl", "no_mixer_no_sampling", 0),
    }


def test_tables_are_written_twice(built):
    _, reports = built
    for name in TABLES:
        assert len(pd.read_csv(reports / "tables" / f"{name}.csv"))
        assert (reports / "tables" / f"{name}.md").read_text().startswith("**")


def test_metrics_are_nested_floats_and_the_choice_skips_enough(built):
    _, reports = built
    numbers = json.loads((reports / "metrics.json").read_text())
    assert all(isinstance(v, float) for section in numbers.values() for v in section.values())
    assert {"nlu_f1", "mt_bleu", "skip_ratio", "speedup_prefill", "speedup_decode"} <= numbers["ours"].keys()
    assert numbers["ours"]["nlu_skip_ratio"] >= 0.25
    assert numbers["headline"]["chosen_on_these_rows"] == 1.0
    delta = numbers["ours"]["nlu_f1"] - numbers["vanilla"]["nlu_f1"]
    assert numbers["delta_vs_vanilla"]["nlu_f1"] == pytest.approx(delta, abs=1e-3)
    delta = numbers["ours"]["mt_bleu"] - numbers["random"]["mt_bleu"]
    assert numbers["delta_vs_random"]["mt_bleu"] == pytest.approx(delta, abs=1e-3)
    area = pd.read_csv(reports / "tables" / "auc.csv").query("tasks == 'understanding, mean of 3'").set_index("method")
    assert numbers["auc_nlu"]["static"] == pytest.approx(area.loc["Static (Yuan et al.)", "AUC"], abs=1e-3)


def test_claims_stand_in_a_file_with_the_runs_that_they_rest_on(built):
    _, reports = built
    document = json.loads((reports / "claims.json").read_text())
    assert len(document["claims"]) == len(pd.read_csv(reports / "tables" / "claims.csv"))
    for claim in document["claims"]:
        assert claim["runs"] and set(claim["runs"]) <= set(document["runs"])
    assert all({"command", "config", "data_sha256", "git_commit"} <= set(run) for run in document["runs"].values())


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn(built, name):
    _, reports = built
    assert (reports / "figures" / f"{name}.svg").stat().st_size > 2000


def test_equal_inputs_give_equal_outputs(built, tmp_path):
    params, reports = built
    write_world(tmp_path, params)
    report.build(params, tmp_path)
    files = [p for p in (tmp_path / "reports").rglob("*") if p.is_file()]
    assert files and all(p.read_bytes() == (reports / p.relative_to(tmp_path / "reports")).read_bytes() for p in files)


def test_missing_runs_are_shown_as_not_run(tmp_path):
    params = parameters()
    write_world(tmp_path, parameters(methods=["vanilla"]))
    report.build(params, tmp_path)
    reports = tmp_path / "reports"
    for table in set(TABLES) - {"backbones", "budget", "cost"}:
        assert NOT_RUN in (reports / "tables" / f"{table}.csv").read_text(), table
        assert "Not run: evaluations/vanilla_long/smollm2-0/nlu, " in (reports / "tables" / f"{table}.md").read_text()
    assert "ours was not run" in (reports / "index.html").read_text()
    assert "ours" not in json.loads((reports / "metrics.json").read_text())


def test_nothing_on_disk_still_gives_a_report(tmp_path):
    report.build(parameters(), tmp_path)
    assert NOT_RUN in (tmp_path / "reports" / "tables" / "headline.md").read_text()


def test_every_backbone_has_its_numbers(tmp_path):
    params = parameters(backbones=["smollm2", "other"], methods=["vanilla", "unified", "ours"])
    write_world(tmp_path, params, n=12)
    report.build(params, tmp_path)
    reports = tmp_path / "reports"
    assert set(pd.read_csv(reports / "tables" / "settings.csv")["backbone"]) == {"smollm2", "other"}
    assert "nlu_f1" in json.loads((reports / "metrics.json").read_text())["other"]["ours"]


def test_broken_files_are_named(tmp_path):
    params = parameters(methods=["vanilla", "ours"])
    write_world(tmp_path, params, n=12)
    path = tmp_path / "evaluations" / "ours" / "smollm2-0" / "nlu" / "rows.csv"
    path.write_text("method,value\nours,1\n")
    with pytest.raises(DlskipError, match=r"rows\.csv.*columns"):
        collect.collect(params, tmp_path)


def test_answers_of_a_headline_batch_are_kept_whatever_it_is(tmp_path):
    data = parameters(methods=["vanilla", "ours"]).model_dump()
    data["evaluate"]["batches"] = [8]
    params = config.validate(data)
    write_world(tmp_path, params, n=12)
    view = View(collect.collect(params, tmp_path), "smollm2")
    assert view.headline.ours.batch == "8"
    assert view.bootstrap.mean(view.headline.ours, view.nlu).value > 0


def test_the_summary_is_the_headline_without_the_weaker_baselines(built):
    _, reports = built
    whole, short = (pd.read_csv(reports / f"tables/{name}.csv", dtype=str) for name in ("headline", "summary"))
    assert 5 <= len(short) < len(whole) and "backbone" not in short
    assert len(short.merge(whole, on=["method", "NLU macro F1", "BLEU"])) == len(short)
    rivals = whole[whole["method"].str.contains("at ours'")]
    best = rivals.loc[pd.to_numeric(rivals["NLU macro F1"], errors="coerce").idxmax(), "method"]
    assert best in set(short["method"])


def test_the_headline_goes_between_the_readmes_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# x\n<!-- headline:begin (note) -->\nold\n<!-- headline:end -->\nrest\n")
    for table in ("| a |\n", "| b |\n"):
        headline.fill_readme(readme, "headline", table)
        assert readme.read_text() == f"# x\n<!-- headline:begin (note) -->\n{table}<!-- headline:end -->\nrest\n"
