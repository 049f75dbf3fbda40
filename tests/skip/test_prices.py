"""Controllers conditioned on the price of a layer: what they are given, what they learn, and the dial that it gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dlskip
from dlskip import config
from dlskip.calibration import for_budget, measure_settings
from dlskip.data.batches import Batch
from dlskip.errors import DlskipError
from dlskip.hub.pretrained import calibrated
from dlskip.methods.learned import Learned
from dlskip.models import artifact
from dlskip.models.tiny import tiny_tokenizer
from dlskip.skip import Threshold, skipper_of
from dlskip.skip.adapter import Head
from dlskip.steps.mixer import Mix
from dlskip.steps.reinforce import Reinforce, drawn_prices
from dlskip.training.losses import reward
from tests.helpers import default
from tests.helpers.published import Made, publish
from tests.helpers.sections import mixer

Ragged = Callable[..., Batch]
RANGE = (0.25, 4.0)
LENGTHS = ((5, 3), (2, 1), (1, 4), (3, 2))


def test_prices_are_scaled_by_their_logarithm(skipping: Any) -> None:
    _, skipper = skipping(prices=RANGE)
    assert [skipper.scaled(p) for p in (0.25, 1.0, 2.0, 4.0, None)] == pytest.approx([-1, 0, 0.5, 1, 0])
    torch.testing.assert_close(skipper.scaled(torch.tensor([0.5, 4.0])), torch.tensor([-0.5, 1.0]))
    for outside in (0.2, 4.1, torch.tensor([1.0, 5.0])):
        with pytest.raises(DlskipError, match=r"range trained for\n  mend: 0.25 to 4"):
            skipper.scaled(outside)


def test_controllers_that_are_told_none_refuse_a_price(skipping: Any, ragged: Ragged) -> None:
    model, skipper = skipping()
    with pytest.raises(DlskipError, match="take no price"), skipper.using(Threshold(0.5, price=1.0)):
        model(**ragged(*LENGTHS).inputs)


def test_a_fresh_head_skips_more_at_a_higher_price() -> None:
    head = Head(8, priced=True)
    head.init_skip(0.3)
    state = torch.randn(5, 8)
    p = [torch.sigmoid(head(state, x)) for x in (-1.0, 0.0, 1.0)]
    torch.testing.assert_close(p[1], torch.full((5,), 0.3))
    assert (p[0] < p[1]).all() and (p[1] < p[2]).all()


def test_each_row_is_told_its_own_price(skipping: Any, ragged: Ragged) -> None:
    """A batch with differing prices decides as each price alone."""
    model, skipper = skipping(prices=RANGE)
    batch = ragged(*LENGTHS)
    prices = torch.tensor([0.25, 0.5, 2.0, 4.0])

    def runs(price: Tensor | float) -> Tensor:
        with torch.no_grad(), skipper.using(Threshold(0.5, price=price)):
            model(**batch.inputs)
        return skipper.last.run_matrix()  # type: ignore[union-attr]

    together = runs(prices)
    assert torch.equal(together, torch.stack([runs(float(p))[i] for i, p in enumerate(prices)]))
    assert not torch.equal(runs(0.25), runs(4.0)), "random heads that no price moves would hide a mistake"


def test_copies_of_a_row_share_a_price_within_the_range(skipping: Any, ragged: Ragged) -> None:
    _, skipper = skipping(prices=RANGE)
    batch = ragged(*LENGTHS * 50).repeat(3)
    torch.manual_seed(0)
    prices = drawn_prices(skipper, batch, 3)
    assert prices is not None and prices.shape == batch.rows.shape
    assert float(prices.min()) >= RANGE[0] and float(prices.max()) <= RANGE[1]
    rows = [prices[batch.rows // 3 == row] for row in range(200)]
    assert all((row == row[0]).all() for row in rows)
    logs = torch.stack([row[0] for row in rows]).log2()
    assert abs(float(logs.mean())) < 0.3 and float(logs.std()) == pytest.approx(4 / math.sqrt(12), abs=0.2)


@pytest.mark.parametrize("baseline", ["rloo", "self_critical"])
def test_a_trajectory_is_rewarded_at_the_price_it_was_told(
    baseline: str, skipping: Any, ragged: Ragged, rl_section: Any, monkeypatch: Any
) -> None:
    model, skipper = skipping(prices=RANGE, lora=True)
    batch = ragged(*LENGTHS)
    section = rl_section(baseline=baseline, cost_gradient="sampled", rollouts=2, price=99.0)
    step, seen = Reinforce(model, section, batch, quiet_until=0), []

    def spy(ce: Tensor, run: Tensor, layers: int, weight: Any, cost: str) -> Tensor:
        seen.append((weight, skipper.policy))
        return reward(ce, run, layers, weight, cost)

    monkeypatch.setattr("dlskip.steps.reinforce.reward", spy)
    torch.manual_seed(0)
    loss, _ = step(batch, 0, 0.5)
    assert loss.isfinite()
    sampled = seen[0][0]
    assert sampled.shape == (2 * len(batch.rows),) and len(set(sampled.tolist())) == 4
    if baseline == "self_critical":
        assert torch.equal(seen[-1][0], torch.cat([sampled[batch.repeat(2).rows == 2 * row] for row in range(4)]))


def test_the_gradient_reaches_what_reads_the_price(skipping: Any, ragged: Ragged, rl_section: Any) -> None:
    model, skipper = skipping(prices=RANGE, lora=True)
    train = {"steps": 4, "batch": 4, "lr": 1e-3, "max_length": 128}
    section = mixer(train=train, w_start=0.5, w_end=0.5, head_lr=1e-2)
    step = Mix(model, section, rl_section(), ragged(*LENGTHS))
    torch.manual_seed(0)
    loss, _ = step(ragged(*LENGTHS), 0, 0.5)
    loss.backward()
    heads = [layer.head for layer in skipper.layers if layer.head is not None]
    assert all(head.out.weight.grad[1].abs().max() > 0 for head in heads)


@pytest.fixture
def priced(tmp_path: Path, skipping: Any) -> Made:
    """An artifact whose controllers are conditioned on a price."""
    return publish(tmp_path, skipping, prices=RANGE)


def test_artifacts_and_releases_keep_the_range(priced: Made, tmp_path: Path) -> None:
    model: Any = dlskip.from_pretrained(priced.artifact, price=2.0)
    assert skipper_of(model).prices == RANGE and skipper_of(model).policy.price == 2.0
    model.save_pretrained(tmp_path / "saved")
    again: Any = dlskip.from_pretrained(tmp_path / "saved")
    assert skipper_of(again).prices == RANGE and skipper_of(again).policy.price == 2.0
    with pytest.raises(DlskipError, match="range trained for"):
        dlskip.from_pretrained(priced.artifact, price=9.0)


def test_a_budget_is_read_off_what_was_measured(priced: Made, tmp_path: Path) -> None:
    model: Any = dlskip.from_pretrained(priced.artifact)
    prompts = ["one two", "three", "four five six", "seven"]
    found = measure_settings(model, tiny_tokenizer(), prompts, [0.25, 1.0, 4.0], knob="price", max_new_tokens=3)
    shares = dict(zip(found.settings.tolist(), found.layers_run.mean(axis=1).tolist(), strict=True))
    most = max(shares.values())
    chosen = for_budget(found, most)
    assert chosen.price is not None and shares[chosen.price] == most and chosen.threshold == 0.5
    calibrated(model, vars(chosen))
    model.save_pretrained(tmp_path / "dialled")
    for setting, share in shares.items():
        asked: Any = dlskip.from_pretrained(tmp_path / "dialled", budget=share)
        assert shares[skipper_of(asked).policy.price] == share, setting
    with pytest.raises(DlskipError, match="least that was measured"):
        dlskip.from_pretrained(tmp_path / "dialled", budget=min(shares.values()) - 0.01)
    with pytest.raises(DlskipError, match="chooses threshold and price itself"):
        dlskip.from_pretrained(tmp_path / "dialled", budget=most, price=1.0)
    with pytest.raises(DlskipError, match=r"no measurements are stored\n  mend: "):
        dlskip.from_pretrained(priced.artifact, budget=0.7)


def test_its_settings_are_the_prices(priced: Made, monkeypatch: Any) -> None:
    params = config.load_params(default.PARAMS)
    monkeypatch.setattr(artifact, "directory", lambda *_: priced.artifact)
    settings = Learned().settings(params, "smollm2", 0)
    assert [s.setting.price for s in settings] == [None, *params.evaluate.prices] and settings[0].setting.full_depth
    policy = Learned().policy(settings[1], "entailment", "per_sample")
    assert isinstance(policy, Threshold) and (policy.threshold, policy.price) == (0.5, params.evaluate.prices[0])


def test_controllers_start_from_ones_that_were_told_none(skipping: Any, ragged: Ragged, tmp_path: Path) -> None:
    """As the variant `priced` does: until it is trained, no price makes a difference."""
    bare, before = skipping(lora=True)
    artifact.save(bare, tmp_path)
    conditioned, after = skipping(lora=True, prices=RANGE)
    artifact.load_skip(after, tmp_path)
    batch = ragged(*LENGTHS)
    with torch.no_grad():
        with before.using(Threshold(0.5)):
            expected = bare(**batch.inputs).logits
        for price in RANGE:
            with after.using(Threshold(0.5, price=price)):
                assert torch.equal(conditioned(**batch.inputs).logits, expected)
    artifact.save(conditioned, tmp_path)
    with pytest.raises(DlskipError, match="another shape"):  # a price that was learnt is not forgotten
        artifact.load_skip(before, tmp_path)
