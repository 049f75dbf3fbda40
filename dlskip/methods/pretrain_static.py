"""Layer-skip pretraining alone: the skip-pretrained model run with the static sets."""

from __future__ import annotations

from dlskip.config import Params
from dlskip.methods.base import FULL, Method, Setting, shared
from dlskip.methods.layer_sets import block
from dlskip.models import artifact


class PretrainStatic(Method):
    """No training of its own: what the random skips of pretraining are worth under a fixed mask."""

    name = "pretrain_static"

    def make(self, params: Params, backbone: str, seed: int) -> list[Setting]:
        start = artifact.directory("skip_pretrain", backbone, seed)
        where = params.baselines.static.block
        settings = shared(params, backbone, start, adapters=True)
        cut = [s.model_copy(update={"skip": block(float(s.name), s.layers, where)}) for s in settings]
        return [settings[0].model_copy(update={"name": FULL}), *cut]


METHOD = PretrainStatic()
