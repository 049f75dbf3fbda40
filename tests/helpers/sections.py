"""Sections of the default's params.yaml, with changes: none of them has defaults of its own."""

from __future__ import annotations

from typing import Any

from dlskip import config
from tests.helpers.default import PARAMS

DEFAULT = config.load_params(PARAMS)


def tune(**changes: Any) -> config.Tune:
    """``model.tune``."""
    return config.Tune(**(DEFAULT.model.tune.model_dump() | changes))


def skip_pretrain(**changes: Any) -> config.SkipPretrain:
    """``skip_pretrain``: one mask for each sample, and no loss on the unskipped path."""
    own = {"p": 0.4, "p_warmup": 0.2, "mask_unit": "sample", "ce_unskipped": 0.0}
    return config.SkipPretrain.model_validate(DEFAULT.skip_pretrain.model_dump() | own | changes)


def rl(**changes: Any) -> config.RL:
    """``rl``; ``sampling`` may be changed in part."""
    own = {"price": 0.3, "share": None, "init_skip": 0.3, "eval_every": 10, "eval_examples": 16}
    sampling = DEFAULT.rl.sampling.model_dump() | changes.pop("sampling", {})
    return config.RL.model_validate(DEFAULT.rl.model_dump() | own | changes | {"sampling": sampling})


def mixer(**changes: Any) -> config.Mixer:
    """``mixer``."""
    return config.Mixer.model_validate(DEFAULT.mixer.model_dump() | {"share": None} | changes)
