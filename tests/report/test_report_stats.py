"""Intervals, paired tests, and methods compared at equal cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sacrebleu.metrics import BLEU

from dlskip.evaluation.metrics import mt_metrics
from dlskip.methods.settings import FULL
from dlskip.report import claims, collect, compare, headline, matched, stats
from dlskip.report.matched import Curve
from dlskip.report.stats import Condition, Estimate
from dlskip.report.view import VANILLA, TaskGroup, View
from tests.helpers.report_world import parameters, write_world

WORDS = ["the", "small", "dog", "runs", "home", "and", "the", "old", "man", "sleeps", "in", "my", "garden"]


def rows(seeds: dict[int, float], method: str = "a", n: int = 40) -> pd.DataFrame:
    """Answers of one run, right with the probability given for each seed."""
    found = []
    for seed, right in seeds.items():
        rng = np.random.default_rng(round(1000 * right))
        for i in range(n):
            gold = ("no", "yes")[i % 2]
            said = gold if rng.random() < right else ("yes", "no")[i % 2]
            found.append(("x", seed, method, "s", "1", "entailment", f"{i:03d}", said, gold))
    return pd.DataFrame(found, columns=collect.PREDICTIONS)


def run(method: str = "a") -> Condition:
    return Condition(method, "s", "1")


def curve_of(points: list[tuple[float, float]]) -> Curve:
    """A curve of one seed, the same on every draw."""
    x, y = (np.array(v, dtype=float) for v in zip(*points, strict=True))
    return Curve({0: x}, {0: np.repeat(y[:, None], 1 + stats.DRAWS, axis=1)})


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    root, params = tmp_path_factory.mktemp("world"), parameters()
    write_world(root, params)
    return View(collect.collect(params, root), "smollm2")


def sentences(right: float, n: int = 30) -> list[str]:
    rng = np.random.default_rng(round(1000 * right) + n)
    return [" ".join(w if rng.random() < right else "x" for w in _reference(i).split()) for i in range(n)]


def _reference(i: int) -> str:
    return " ".join(WORDS[(i + j) % len(WORDS)] for j in range(8))


REFERENCES = [_reference(i) for i in range(30)]


def test_bleu_of_draws_is_sacrebleus():
    said = ["", "x", *sentences(0.7)[2:]]
    drawn = stats.bleu(said, REFERENCES, "en", stats.resamples("de-en", len(said)))
    assert drawn[0] == pytest.approx(mt_metrics(said, REFERENCES, "en")[0]["bleu"])
    for draw in (1, 2, 3):
        times = stats.resamples("de-en", len(said))[draw].astype(int)
        pairs = [pair for pair, k in zip(zip(said, REFERENCES, strict=True), times, strict=True) for _ in range(k)]
        hypotheses, references = map(list, zip(*pairs, strict=True))
        assert drawn[draw] == pytest.approx(BLEU().corpus_score(hypotheses, [references]).score)


@pytest.mark.parametrize("said", [["", ""], ["x y z", "u"], ["the", "dog"], ["the small dog"] * 2])
def test_bleu_of_draws_handles_little_output(said):
    references = ["the small dog runs", "a dog"]
    expected = mt_metrics(said, references, "en")[0]["bleu"]
    assert stats.bleu(said, references, "en", np.ones((1, 2))) == pytest.approx([expected])


def test_a_run_against_itself_differs_by_exactly_nothing():
    bootstrap = stats.Bootstrap(rows({0: 0.7, 1: 0.8}))
    same = bootstrap.difference(run(), run(), ["entailment"])
    assert same == (0, 0, 0, True) and same.covers_zero
    assert headline.verdict(same) == "not distinguishable from"


def test_equal_seeds_leave_the_examples_alone():
    one = stats.pooled(stats.Bootstrap(rows({0: 0.7})).drawn(run(), ["entailment"]))
    three = pd.concat([rows({0: 0.7}).assign(seed=seed) for seed in range(3)])
    assert stats.pooled(stats.Bootstrap(three).drawn(run(), ["entailment"])) == pytest.approx(one)


def test_seeds_that_differ_widen_the_interval():
    narrow = stats.Bootstrap(rows({0: 0.7})).mean(run(), ["entailment"])
    wide = stats.Bootstrap(rows({0: 0.5, 1: 0.7, 2: 0.95})).mean(run(), ["entailment"])
    assert wide.high - wide.low > narrow.high - narrow.low
    assert np.allclose(stats.seed_shares(3).sum(axis=1), 1) and np.allclose(stats.seed_shares(1), 1)


def test_only_seeds_that_both_have_are_compared():
    both = stats.Bootstrap(pd.concat([rows({0: 0.6, 1: 0.9}), rows({0: 0.6}, "b")]))
    assert both.difference(run(), run("b"), ["entailment"]) == (0, 0, 0, True)
    assert np.isnan(both.difference(run(), run("c"), ["entailment"]).value)


def test_a_planted_difference_is_found():
    both = stats.Bootstrap(pd.concat([rows({0: 0.95}), rows({0: 0.6}, "b")]))
    found = both.difference(run(), run("b"), ["entailment"])
    assert found.low > 0 and not found.covers_zero


def test_sacrebleus_paired_test_finds_a_planted_difference_and_none_between_equals():
    good, bad = sentences(0.95), sentences(0.6)
    p, signature = stats.paired_bleu({"ours": good, "bad": bad, "same": list(good)}, REFERENCES, "en")
    assert p["bad"] < 0.05 and p["same"] == 1.0
    assert f"bs:{stats.DRAWS}" in signature and "seed:" in signature
    assert stats.paired_bleu({"ours": good, "bad": bad}, REFERENCES, "en")[0]["bad"] == p["bad"]


def test_area_under_a_constant_is_the_constant():
    flat = curve_of([(0, 61.5), (13, 61.5), (40, 61.5)])
    assert stats.pooled(flat.area(5, 33.3)) == pytest.approx(61.5)


def test_area_and_interpolation_are_those_of_the_line():
    line = curve_of([(0, 80), (10, 70), (50, 30)])  # 80 - x
    assert stats.estimate(line.area(0, 50)).value == pytest.approx(55)
    assert stats.estimate(line.area(5, 15)).value == pytest.approx(70)
    for share in (0, 7.5, 10, 49.9):
        assert stats.estimate(line.at(share)).value == pytest.approx(80 - share)
    assert line.reaches(50) and not line.reaches(50.1) and line.at(50.1) == {}


def test_the_common_range_is_covered_by_every_seed_of_every_curve():
    two = Curve({0: np.array([0.0, 30]), 1: np.array([0.0, 22])}, {})
    assert matched.common([two, curve_of([(0, 1), (90, 1)]), Curve({}, {})]) == (0, 22)
    assert matched.common([curve_of([(0, 1)]), curve_of([(0, 1), (90, 1)])]) is None
    assert matched.common([]) is None


def test_quality_at_a_measured_share_is_the_measured_quality(view):
    for method in ("ours", "static", "random", "no_mixer"):
        for tasks in (view.nlu, view.mt):
            its = matched.curve(view, method, tasks)
            for point in view.points(method, tasks):
                assert stats.estimate(its.at(point.skipped)).value == pytest.approx(point.quality, abs=1e-4)


def test_a_curve_begins_where_nothing_is_skipped(view):
    full = view.one(VANILLA, "f1_macro", view.nlu)
    assert view.points("unified", view.nlu)[0] == (VANILLA, 0.0, pytest.approx(full), 0.0)
    assert view.points("ours", view.nlu)[0].condition == view.headline.full
    assert view.points("random", view.nlu)[0].condition == Condition("ours", FULL, "per_sample")
    assert view.points("no_mixer", view.nlu)[0].condition == Condition("no_mixer", FULL, "per_sample")
    for method in view.methods:
        shares = [p.skipped for p in view.points(method, view.nlu)]
        assert shares == sorted(shares) and shares[0] == 0


def test_bootstrap_scores_equal_the_evaluations(view):
    for chosen in (VANILLA, view.headline.ours, view.headline.random, *view.conditions("static", "per_sample")):
        for task in view.tasks:
            scores = stats.pooled(view.bootstrap.drawn(chosen, [task]))
            assert scores[0] == pytest.approx(view.quality(chosen, [task]).mean(), abs=1e-6)


def test_rivals_are_ordered_by_quality_at_ours_share(view):
    found = matched.rivals(view, view.nlu)
    values = [stats.estimate(r.there).value for r in found if r.there]
    assert {r.method for r in found} == set(view.baselines) and values == sorted(values, reverse=True)


def test_claims_agree_with_their_intervals_and_name_their_runs(view):
    said = claims.find([view])
    assert {c.method for c in said} == {m for m in view.compared if m != "ours"}
    for claim in said:
        covered = claim.difference.covers_zero or any(p >= claims.LEVEL for p in claim.p.values())
        assert (claim.verdict == claims.SAME) == covered or claim.verdict in ("not reached", compare.NO_RANGE)
        assert "evaluations/ours/smollm2-0/nlu" in claim.runs and claim.seeds in ([0], [])
        if not np.isnan(claim.difference.value):
            assert claim.ours - claim.other == pytest.approx(claim.difference.value)
    tested = [c for c in said if c.p]
    assert {c.group.label for c in tested} == {"English to Chinese", "German to English"}
    static = next(c for c in said if c.method == "static")
    assert "artifacts/static/smollm2-0/0.5" in static.runs and "artifacts/vanilla/smollm2-0" in static.runs
    document = claims.document(view.found, said)
    assert set(document["runs"]) == {run for c in said for run in c.runs}
    assert all(run["command"] and run["data_sha256"] for run in document["runs"].values())


def test_words_follow_the_numbers():
    assert headline.verdict(Estimate(-2, -3, -1)) == "below"
    assert headline.verdict(Estimate(2, 1, 3)) == "above"
    assert headline.verdict(Estimate(0.5, -1, 2)) == "not distinguishable from"
    common = {
        "backbone": "b", "method": "static", "how": "so", "ours": 3.0, "other": 1.0, "n": 9, "seeds": [0], "runs": [],
        "group": TaskGroup("translation", ["de-en"], "bleu", "BLEU", "decode"),
    }  # fmt: skip
    assert Estimate(2, -1, 3).text() == "2.0 [-1.0, 3.0]" and Estimate(2, -1, 3, True).text(2) == "+2.00 [−1.00, +3.00]"
    clear = Estimate(2, 1, 3)
    assert claims.Claim(difference=clear, **common).verdict == "better"
    assert claims.Claim(difference=clear, p={0: 0.01, 1: 0.2}, **common).verdict == claims.SAME
    assert "not distinguishable from Static" in claims.Claim(difference=Estimate(1, -1, 3), **common).sentence
    assert claims.Claim(difference=Estimate(*[np.nan] * 3), **common).verdict == "not run"


def test_the_headline_names_the_strongest_baseline(view, tmp_path: Path):
    text = " ".join(headline.sentences(view))
    best = matched.rivals(view, view.nlu)[0]
    assert f"the strongest of {len(view.baselines)} other methods is {claims.title(best.method)}" in text
    params = parameters()
    write_world(tmp_path, parameters(methods=["vanilla", "ours"]), n=12)
    alone = View(collect.collect(params, tmp_path), "smollm2")
    assert "The other methods were not run." in " ".join(headline.sentences(alone))
