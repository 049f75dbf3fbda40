"""The price that is adapted to a share: it gets there from either side, and an infeasible share is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlskip.errors import DlskipError
from dlskip.inference.scoring import target_logits
from dlskip.skip import Sampled
from dlskip.steps.reinforce import Reinforce
from dlskip.training.price import Price

LAYERS = 32


def skipped_share(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits).mean() * (LAYERS - 2) / LAYERS


@pytest.mark.parametrize("start", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_a_policy_that_follows_its_price_ends_at_the_share(share: float, start: float) -> None:
    """Layers that are worth different amounts, and a policy that climbs the exact gradient with Adam, as heads do."""
    price = Price(start, share, LAYERS)
    worth = torch.linspace(0.1, 3.0, LAYERS - 2) / LAYERS
    logits = torch.zeros(LAYERS - 2, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    shares = []
    for _ in range(800):
        shares.append(float(skipped_share(logits.detach())))
        cost = (torch.sigmoid(logits) * worth).sum() + price.now() * (1 - skipped_share(logits))
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        price.follow(skipped_share(logits.detach()))
    late = torch.tensor(shares[-100:])
    assert late.mean() == pytest.approx(share, abs=0.03)
    assert late.std() < 0.03, "it does not swing around it"
    order = torch.sigmoid(logits.detach())
    assert order[: LAYERS // 4].mean() > order[-LAYERS // 4 :].mean(), "what is worth least is skipped first"


def test_a_price_without_a_share_stays() -> None:
    price = Price(0.5, None, LAYERS)
    price.follow(torch.tensor(0.9))
    assert price.now() == 0.5


def test_a_share_that_no_policy_reaches_is_refused() -> None:
    with pytest.raises(DlskipError, match="cannot be reached") as error:
        Price(0.5, 0.95, LAYERS)
    assert (error.value.where, error.value.mend) == ("rl.share", "at most 0.93")
    with pytest.raises(DlskipError) as error:
        Price(0.5, 0.95, LAYERS, "mixer")
    assert error.value.where == "mixer.share"
    Price(0.5, 0.93, LAYERS)


def test_the_price_of_a_step_is_in_its_rewards(skipping: Any, ragged: Any, rl_section: Any) -> None:
    """Logged, used, and then adapted: up, since fresh controllers skip less than is asked for."""
    model, skipper = skipping(layers=6)
    skipper.init_heads(0.1)
    step = Reinforce(model, rl_section(price=0.5, share=0.6), ragged((3, 1)), 0)
    prices = []
    for index in range(3):
        _, metrics = step(ragged((3, 2), (2, 1)), index, 0.9)
        prices.append(float(metrics["price"]))
        lost = metrics["ce_reward"] + metrics["price"] * metrics["layers_run"] / 6
        assert float(metrics["reward"]) == pytest.approx(-float(lost), rel=1e-5)
        assert float(metrics["skip_expected"]) < 0.5
    assert prices[0] == pytest.approx(0.5) and prices[1] > prices[0] and prices[2] > prices[1]


@pytest.mark.parametrize("lengths", [(7, 3), (2, 1), (1, 5)])
def test_the_share_is_what_an_evaluation_counts(lengths: tuple[int, int], skipping: Any, ragged: Any) -> None:
    """A prompt's decision counts for all of its tokens: the same as the tokens that went through layers."""
    model, skipper = skipping(layers=6)
    batch = ragged(lengths)
    skipper.reset_counter()
    with torch.no_grad(), skipper.using(Sampled(torch.Generator().manual_seed(0)), batch.deciders):
        target_logits(model, batch)
    tokens = int(batch.attention_mask.sum())
    counted = 1 - sum(skipper.counter.decided) / (6 * tokens)
    skipped = (~skipper.last.run_matrix()).float().sum(dim=1) / 6
    assert counted > 0 and float(skipped @ batch.applications) == pytest.approx(counted, abs=1e-6)
    several = ragged(lengths, (3, 2), (9, 1))
    assert float(several.applications.sum()) == pytest.approx(1)
    assert torch.allclose(torch.zeros(3).index_add(0, several.rows, several.applications), torch.full((3,), 1 / 3))
