"""MIXER: the entropy bonus that ends below 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlskip.steps.mixer import Mix
from tests.helpers.sections import mixer

TRAIN = {"steps": 4, "batch": 3, "lr": 1e-3, "max_length": 128}
LENGTHS = (3, 2), (2, 4), (4, 1)


@pytest.mark.parametrize("progress", [0.25, 1.0])
def test_the_entropy_bonus_goes_to_its_end(progress: float, skipping: Any, ragged: Any, rl_section: Any) -> None:
    """Between two moments nothing else of the loss differs: the bonus is so many times the entropy of all heads."""
    model, skipper = skipping(layers=6, lora=True)
    skipper.init_heads(0.4)
    section = mixer(train=TRAIN, w_start=0.25, w_end=0.25, schedule="linear", entropy_end=-0.5)
    step, batch, losses = Mix(model, section, rl_section(entropy=0.1), ragged(*LENGTHS)), ragged(*LENGTHS), []
    for moment in (0.0, progress):
        torch.manual_seed(3)
        loss, metrics = step(batch, 0, moment)
        losses.append(float(loss.detach()))
    of_all = 4 * float(metrics["entropy"])  # fresh heads: each of the four free layers has nearly the same
    assert losses[1] - losses[0] == pytest.approx((0.1 + 0.5) * progress * (1 - 0.25) * of_all, rel=0.03)


def test_a_negative_end_makes_the_controllers_decided(skipping: Any, ragged: Any, rl_section: Any) -> None:
    """The gradient at the heads leads away from one half, to the side on which they are."""
    for p, sign in ((0.3, 1.0), (0.7, -1.0)):
        model, skipper = skipping(layers=6, lora=True)
        skipper.init_heads(p)
        heads = [layer.head for layer in skipper.layers if layer.head is not None]
        for head in heads:
            torch.nn.init.zeros_(head.out.weight)
        section = mixer(train=TRAIN, w_start=0.0, w_end=0.0, schedule="linear", entropy_end=-100)
        loss, _ = Mix(model, section, rl_section(entropy=0.0), ragged(*LENGTHS))(ragged(*LENGTHS), 0, 1.0)
        loss.backward()
        assert all(sign * float(head.out.bias.grad) > 0 for head in heads)
