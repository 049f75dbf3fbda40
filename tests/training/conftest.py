"""A step of every stage, on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dlskip.config import Train
from dlskip.models import tuning
from dlskip.steps.mixer import Mix
from dlskip.steps.pretrain import Pretrain
from dlskip.steps.reinforce import Reinforce
from dlskip.steps.supervised import Supervised
from dlskip.training.loop import Step
from tests.helpers.sections import mixer, skip_pretrain

TRAIN = Train(max_length=1024, steps=7, batch=4, lr=1e-2, checkpoint_every=3, log_every=1)
STEPS = (
    "finetune",
    "adapter_init",
    "pretrain_sample",
    "pretrain_token",
    "rloo",
    "ema",
    "self_critical",
    "share",
    "mix",
    "mixer",
)


@pytest.fixture
def make_step(skipping: Any, ragged: Any, rl_section: Any) -> Callable[..., Step]:
    """Builds a step on a fresh tiny model: the same one each time."""

    def make(name: str, family: str = "llama", **options: Any) -> Step:
        torch.manual_seed(0)
        model, skipper = skipping(family, layers=4, lora=True, **options)
        held = ragged((3, 2), (2, 1), seed=9)
        if name == "finetune":
            return Supervised(model, tuning.backbone_parameters(model))
        if name == "adapter_init":
            return Supervised(model, skipper.adapters())
        if name.startswith("pretrain"):
            unit = name.removeprefix("pretrain_")
            config = {"train": TRAIN.model_dump(), "teacher": "self", "p": 0.5, "p_warmup": 0, "mask_unit": unit}
            return Pretrain(model, skip_pretrain(**config))
        if name in ("mix", "mixer"):
            schedule = {"schedule": "linear"} if name == "mix" else {"schedule": "mixer", "delta": 1, "stages": 3}
            config = {"train": TRAIN.model_dump(), "w_start": 0.9, "w_end": 0.1, "head_lr": 1e-2} | schedule
            shares = ({"share": 0.4}, {"share": 0.3}) if name == "mix" else ({}, {})
            return Mix(model, mixer(**config | shares[0]), rl_section(**shares[1]), held)
        if name == "share":
            return Reinforce(model, rl_section(share=0.3), held, 0)
        return Reinforce(model, rl_section(baseline=name, rollouts=2), held, 0)

    return make
