"""A method's weights as they are deployed: LoRA folded in, adapters in the backbone's dtype, the fast path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from dlskip.config import Params
from dlskip.fast import use_fast_path
from dlskip.methods.settings import PlannedSetting
from dlskip.models import artifact, tuning
from dlskip.skip import Skipper, skipper_of


@dataclass(frozen=True)
class Deployed:
    """A model ready to run: every method's by the same forward, vanilla's too."""

    model: nn.Module
    skipper: Skipper
    tokenizer: PreTrainedTokenizerBase


def deploy(params: Params, backbone: str, planned: PlannedSetting) -> Deployed:
    """Loads the weights of a planned setting."""
    source = Path(planned.weights)
    params = artifact.as_trained(params, source) if planned.adapters else params
    model, tokenizer = artifact.build_model(
        params, backbone, weights=source, skip=source if planned.adapters else None, adapters=planned.adapters
    )
    model = tuning.merged(model)
    skipper = skipper_of(model)
    skipper.cast_adapters(next(model.parameters()).dtype)
    use_fast_path(model)
    return Deployed(model, skipper, tokenizer)
