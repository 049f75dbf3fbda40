"""A method's weights as they are deployed: LoRA folded in, adapters in the backbone's dtype, the fast path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from dlskip.config import Params
from dlskip.fast import use_fast_path
from dlskip.methods.base import Setting
from dlskip.models import artifact, tuning
from dlskip.skip import Skipper, skipper_of


@dataclass(frozen=True)
class Deployed:
    """A model ready to run; ``skipper`` is None for one that never skips."""

    model: nn.Module
    skipper: Skipper | None
    tokenizer: PreTrainedTokenizerBase


def deploy(params: Params, backbone: str, setting: Setting) -> Deployed:
    """Loads the weights of a setting."""
    source = Path(setting.weights)
    skipping = setting.adapters or setting.layers > 0
    params = artifact.as_trained(params, source) if setting.adapters else params
    model, tokenizer = artifact.build(
        params, backbone, weights=source, skip=source if setting.adapters else None, skipping=skipping,
        adapters=setting.adapters,
    )  # fmt: skip
    model = tuning.merged(model)
    skipper = skipper_of(model) if skipping else None
    if skipper is not None:
        skipper.cast_adapters(next(model.parameters()).dtype)
        use_fast_path(model)
    return Deployed(model, skipper, tokenizer)
