"""The budget dial keeps what it promises, shown by simulation and by exact distributions; measuring is decoding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from dlskip.calibration import (
    Calibration,
    Measurements,
    agreement,
    examples_needed,
    for_budget,
    for_quality,
    measure_settings,
    p_value,
    upper_bound,
)
from dlskip.errors import DlskipError
from dlskip.inference.decode import decode
from dlskip.models.tiny import tiny_tokenizer
from dlskip.skip import FullDepth, Threshold
from tests.helpers.effort import FOUR_OR_ALL, tries

DELTA = 0.05
PROMPTS = ["the man saw a dog", "is it true? ", "yes", "der Mann und die Frau in the house", "no good"]
Choose = Callable[[Measurements, float], float]


def measurements(losses: Any, shares: Any = None, *, binary: bool = False) -> Measurements:
    """K rows of losses, and of shares (a half throughout unless given), at thresholds that fall from 0.9."""
    losses = np.asarray(losses, dtype=float)
    shares = np.full(losses.shape, 0.5) if shares is None else np.asarray(shares, dtype=float)
    return Measurements(0.9 - 0.01 * np.arange(len(losses)), losses, shares, binary, "any", "hash")


def violations(choose: Choose, risks: list[float], limit: float, *, binary: bool, trials: int = 300) -> tuple[int, int]:
    """In how many of the trials the chosen threshold's true risk exceeds the limit, and in how many one was chosen."""
    exceeded = chosen = 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        if binary:
            losses = rng.random((len(risks), 200)) < np.array(risks)[:, None]
        else:  # a loss is uniform where there is one
            losses = (rng.random((len(risks), 200)) < 2 * np.array(risks)[:, None]) * rng.random((len(risks), 200))
        measured = measurements(losses, binary=binary)
        try:
            threshold = choose(measured, limit)
        except DlskipError:
            continue
        chosen += 1
        exceeded += risks[int(np.flatnonzero(measured.settings == threshold)[0])] > limit
    return exceeded, chosen


def too_often(exceeded: int, trials: int) -> bool:
    """Whether so many violations refute that their probability is at most delta."""
    return bool(binomtest(exceeded, trials, DELTA, alternative="greater").pvalue < 0.001)


def by_mean(measured: Measurements, limit: float) -> float:
    """The obvious wrong way: the lowest threshold whose mean loss is within the limit."""
    return float(measured.settings[measured.losses.mean(axis=1) <= limit].min(initial=1.0))


def without_sequence(measured: Measurements, limit: float) -> float:
    """Each threshold tested on its own at level delta, the lowest that passes taken: multiplicity ignored."""
    passed = [p_value(row, limit, binary=measured.binary) <= DELTA for row in measured.losses]
    return float(measured.settings[passed].min(initial=1.0))


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
def test_the_true_risk_exceeds_the_limit_in_at_most_delta_of_the_draws(binary: bool) -> None:
    """Two good thresholds, then ten that lose hardly too much: the worst case for whoever looks at all of them."""
    risks, limit = [0.02, 0.03, *[0.101] * 10], 0.1
    exceeded, chosen = violations(lambda m, x: for_quality(m, x).threshold, risks, limit, binary=binary)
    assert not too_often(exceeded, 300)
    assert chosen > 285  # the good ones are certified nearly always


@pytest.mark.parametrize("mutant", [by_mean, without_sequence])
def test_the_simulation_tells_choices_without_a_guarantee(mutant: Choose) -> None:
    risks = [0.02, 0.03, *[0.101] * 10]
    assert too_often(violations(lambda m, x: mutant(m, x), [*risks], 0.1, binary=True)[0], 300)


@pytest.mark.slow
def test_the_bound_beside_a_budget_holds_though_the_threshold_was_chosen_on_the_same_examples() -> None:
    """Shares that favour whichever threshold happened to lose least; without Bonferroni the bound fails."""
    risk, rows, exceeded, naive = 0.1, 20, 0, 0
    for seed in range(300):
        losses = np.random.default_rng(seed).random((rows, 100)) < risk
        measured = measurements(losses, 0.5 - 0.1 * losses, binary=True)
        found = for_budget(measured, 0.5)
        chosen = losses[int(np.flatnonzero(measured.settings == found.threshold)[0])]
        assert chosen.mean() == losses.mean(axis=1).min()
        exceeded += risk > found.drop_bound
        naive += risk > upper_bound(chosen.astype(float), DELTA, binary=True)
    assert not too_often(exceeded, 300) and too_often(naive, 300)


@settings(max_examples=tries(30), deadline=None, derandomize=True)
@given(n=st.integers(1, 40), limit=st.floats(0.01, 0.9), halves=st.floats(0, 1))
def test_p_values_are_super_uniform_at_the_limit(n: int, limit: float, halves: float) -> None:
    """Exactly: over the distribution of the sum of n losses in {0, 1/2, 1} whose mean is the limit."""
    half = halves * 2 * min(limit, 1 - limit)
    single = [1 - limit - half / 2, half, limit - half / 2]
    totals = np.ones(1)
    for _ in range(n):
        totals = np.convolve(totals, single)
    sums = ([1.0] * (s // 2) + [0.5] * (s % 2) + [0.0] * n for s in range(2 * n + 1))
    p = np.array([p_value(np.array(losses[:n]), limit) for losses in sums])
    exact = np.array([p_value(np.arange(n) < k, limit, binary=True) for k in range(n + 1)])
    for values, chances in ((p, totals), (exact, binom.pmf(range(n + 1), n, limit))):
        for u in values:
            assert chances[values <= u].sum() <= u + 1e-9


@settings(max_examples=tries(60), deadline=None, derandomize=True)
@given(losses=st.lists(st.floats(0, 1), min_size=2, max_size=40), more=st.floats(0, 1), limit=st.floats(0.01, 0.98))
def test_p_values_rise_with_the_losses_and_fall_with_the_limit(losses: list[float], more: float, limit: float) -> None:
    x = np.array(losses)
    p = p_value(x, limit)
    assert 0 <= p <= 1
    assert p_value(np.maximum(x, more), limit) >= p - 1e-12
    assert p_value(x, min(limit + 0.01, 1.0)) <= p + 1e-12


@pytest.mark.parametrize(("n", "k"), [(59, 0), (93, 1), (124, 2), (153, 3), (181, 4)])
def test_binary_losses_need_the_tabulated_sample_sizes(n: int, k: int) -> None:
    """The 95 %/95 % sample sizes of Wilks (1941) for k failures: one example fewer is not enough."""
    losses = np.arange(n) < k
    assert p_value(losses, 0.05, binary=True) <= 0.05 < p_value(losses[:-1], 0.05, binary=True)
    assert p_value(losses, 0.05) > p_value(losses, 0.05, binary=True) - 1e-12  # the general test pays for knowing less


def test_without_a_loss_the_general_test_is_as_strong_as_the_exact_one() -> None:
    assert p_value(np.zeros(80), 0.03) == pytest.approx(p_value(np.zeros(80), 0.03, binary=True))


@pytest.mark.parametrize("delta", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("k", [0, 1, 7, 19, 20])
def test_the_upper_bound_is_that_of_clopper_and_pearson(k: int, delta: float) -> None:
    losses = (np.arange(20) < k).astype(float)
    interval = binomtest(k, 20).proportion_ci(confidence_level=1 - 2 * delta, method="exact")
    assert upper_bound(losses, delta, binary=True) == pytest.approx(interval.high)
    assert upper_bound(losses, delta) >= interval.high - 1e-9


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3])
def test_the_stated_number_of_examples_is_the_least_that_can_certify(limit: float) -> None:
    n = examples_needed(limit, DELTA)
    assert p_value(np.zeros(n), limit) <= DELTA < p_value(np.zeros(n - 1), limit)
    with pytest.raises(DlskipError, match=rf"(?s){n - 1} examples cannot.*{n} examples"):
        for_quality(measurements(np.zeros((1, n - 1))), limit)
    assert for_quality(measurements(np.zeros((1, n))), limit).threshold == 0.9


def test_testing_stops_at_the_first_threshold_that_is_not_certified() -> None:
    rows = np.zeros((4, 100))
    rows[2, :30] = 1
    found = for_quality(measurements(rows, binary=True), 0.1)
    assert (found.threshold, found.drop, found.drop_bound) == (pytest.approx(0.89), 0.0, 0.1)
    rows[0] = rows[2]
    with pytest.raises(DlskipError, match=r"(?s)threshold 0\.9 loses 0\.3000.*larger drop"):
        for_quality(measurements(rows, binary=True), 0.1)
    with pytest.raises(DlskipError, match=r"(?s)too near the limit.*about \d{4,} examples"):
        for_quality(measurements(rows, binary=True), 0.31)


def test_a_laxer_request_never_gives_a_higher_threshold() -> None:
    losses = np.random.default_rng(0).random(150) < np.linspace(0, 0.4, 50)[:, None]
    measured = measurements(losses, binary=True)
    by_drop = [for_quality(measured, x).threshold for x in (0.05, 0.1, 0.2, 0.3)]
    by_delta = [for_quality(measured, 0.15, delta=x).threshold for x in (0.001, 0.01, 0.1, 0.4)]
    assert by_drop == sorted(by_drop, reverse=True) and len(set(by_drop)) > 2
    assert by_delta == sorted(by_delta, reverse=True) and len(set(by_delta)) > 1


@pytest.mark.parametrize(("share", "index"), [(0.95, 1), (0.8, 1), (0.79, 2), (0.4, 3)])
def test_a_budget_gives_the_threshold_nearest_from_below(share: float, index: int) -> None:
    shares = np.array([1.0, 0.8, 0.6, 0.4])[:, None] + np.array([0.0, 0.0, 0.0, 0.0, 0.0])
    measured = measurements(np.zeros((4, 5)), shares)
    found = for_budget(measured, share)
    assert found.threshold == measured.settings[index]
    assert found.layers_run == found.layers_run_low == found.layers_run_high == pytest.approx(shares[index, 0])


def test_shares_that_do_not_fall_with_the_threshold_are_compared_all_the_same() -> None:
    """A lower threshold may run more layers; of two that run alike the conservative one is taken."""
    measured = measurements(np.zeros((5, 4)), np.array([1.0, 0.5, 0.65, 0.65, 0.3])[:, None] + np.zeros(4))
    assert for_budget(measured, 0.7).threshold == measured.settings[2]


def test_a_budget_out_of_reach_says_what_is_reached() -> None:
    measured = measurements(np.zeros((3, 4)), [[1.0] * 4, [0.55] * 4, [0.6] * 4])
    with pytest.raises(DlskipError, match=r"least is 0\.550, at 0\.89"):
        for_budget(measured, 0.5)


def test_the_interval_of_the_share_covers_its_expectation() -> None:
    covered = 0
    for seed in range(200):
        shares = np.random.default_rng(seed).beta(6, 4, size=(1, 60))
        found = for_budget(measurements(np.zeros((1, 60)), shares), 0.99, seed=seed)
        covered += found.layers_run_low <= 0.6 <= found.layers_run_high
    assert 200 * (1 - DELTA) - 15 <= covered < 200


def test_a_calibration_survives_json() -> None:
    found = for_budget(measurements(np.full((2, 30), 0.1), np.random.default_rng(0).random((2, 30))), 0.9)
    assert Calibration(**json.loads(json.dumps(asdict(found)))) == found
    assert found.layers_run_low < found.layers_run < found.layers_run_high
    assert found.drop == pytest.approx(0.1) and found.drop < found.drop_bound < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": np.array([0.5, 0.9])}, "fall strictly"),
        ({"losses": np.zeros((2, 3))}, "losses"),
        ({"losses": np.full((2, 4), -0.1)}, "lie in"),
        ({"layers_run": np.full((2, 4), np.nan)}, "lie in"),
        ({"losses": np.full((2, 4), 0.5), "binary": True}, "binary"),
        ({"losses": np.zeros((2, 1)), "layers_run": np.zeros((2, 1))}, "too few"),
    ],
)
def test_measurements_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "settings": np.array([0.9, 0.5]), "losses": np.zeros((2, 4)), "layers_run": np.ones((2, 4)), "binary": False,
        "quality": "any", "data_sha256": "",
    }  # fmt: skip
    Measurements(**good)
    with pytest.raises(DlskipError, match=message):
        Measurements(**good | change)


@pytest.mark.parametrize("limit", [0.0, 1.0, -0.1, 1.5])
def test_targets_outside_the_unit_interval_are_refused(limit: float) -> None:
    measured = measurements(np.zeros((1, 5)))
    for choose in (for_quality, for_budget):
        with pytest.raises(DlskipError, match="not between"):
            choose(measured, limit)


def test_agreement_counts_positions() -> None:
    assert agreement([], []) == agreement([1, 2], [1, 2]) == 1
    assert agreement([1, 2, 3], [1, 5, 3, 4]) == 0.5
    assert agreement([], [1]) == agreement([1], [2]) == 0


@pytest.mark.parametrize("family", FOUR_OR_ALL)
def test_measuring_is_decoding_at_each_threshold(family: str, skipping: Any) -> None:
    """Threshold 1 loses nothing and runs all; 0 runs the first and the last of six; the rest is row by row."""
    model, skipper = skipping(family)
    tokenizer, before = tiny_tokenizer(), skipper.policy
    found = measure_settings(model, tokenizer, PROMPTS, [0.0, 0.5, 1.0, 0.5], max_new_tokens=5, batch=2)
    assert skipper.policy is before
    assert found.settings.tolist() == [1.0, 0.5, 0.0] and not found.binary and found.quality == "agreement"
    assert (found.losses[0] == 0).all() and (found.layers_run[0] == 1).all()
    assert found.layers_run[2] == pytest.approx(1 / 3) and found.losses[2].any()
    assert ((found.layers_run[1] > 1 / 3) & (found.layers_run[1] < 1)).any()
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt)["input_ids"]
        single = []
        for policy in (FullDepth(), Threshold(0.5)):
            with skipper.using(policy):
                single += decode(model, skipper, [ids], eos=1, pad=2, max_new_tokens=5)
        full, skipped = single
        assert found.losses[1, i] == pytest.approx(1 - agreement(skipped.tokens, full.tokens))
        ran = len(ids) * int(skipped.runs[0].sum()) + sum(int(r.sum()) for r in skipped.runs[1:])
        assert found.layers_run[1, i] == pytest.approx(ran / (6 * (len(ids) + len(skipped.runs) - 1)))


def test_against_references_only_what_full_depth_got_right_can_be_lost(skipping: Any) -> None:
    model, skipper = skipping()
    tokenizer = tiny_tokenizer()
    outputs = []
    for policy in (FullDepth(), Threshold(0.0)):
        with skipper.using(policy):
            ids = [tokenizer(p)["input_ids"] for p in PROMPTS]
            decoded = decode(model, skipper, ids, eos=1, pad=2, max_new_tokens=4)
        outputs.append([tokenizer.decode(d.tokens, skip_special_tokens=True) for d in decoded])
    differ = np.array([a != b for a, b in zip(*outputs, strict=True)])
    assert differ.any()

    def losses(references: list[str], **options: Any) -> Measurements:
        return measure_settings(
            model, tokenizer, PROMPTS, [1.0, 0.0], references=references, max_new_tokens=4, **options
        )

    assert np.array_equal(losses(outputs[0]).losses, [[0] * len(PROMPTS), differ])
    assert losses(outputs[0]).binary and losses(outputs[0]).quality == "exact_match"
    assert not losses(outputs[1]).losses.any()  # skipping only gains here
    halved = losses(outputs[0], score=lambda output, reference: 0.5 * (output == reference))
    assert np.array_equal(halved.losses[1], differ / 2) and not halved.binary
    assert losses(outputs[0]).data_sha256 != losses(outputs[1]).data_sha256
    with pytest.raises(DlskipError, match="is not in"):
        losses(outputs[0], score=lambda *_: 50.0)
    with pytest.raises(DlskipError, match="1 references of 5 prompts"):
        losses(["a"])


def test_a_measured_model_runs_within_its_budget(skipping: Any) -> None:
    model, _ = skipping()
    measured = measure_settings(model, tiny_tokenizer(), PROMPTS, np.linspace(0, 1, 9).tolist(), max_new_tokens=4)
    found = for_budget(measured, 0.7)
    again = measure_settings(model, tiny_tokenizer(), PROMPTS, [found.threshold], max_new_tokens=4)
    assert again.layers_run.mean() == pytest.approx(found.layers_run) and found.layers_run <= 0.7
    assert again.losses.mean() == pytest.approx(found.drop) and found.n == len(PROMPTS)
