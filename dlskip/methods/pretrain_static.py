"""Layer-skip pretraining alone: the skip-pretrained model run with the static sets."""

from __future__ import annotations

from dlskip.config import Params
from dlskip.methods.base import Method, for_shares
from dlskip.methods.layer_sets import block
from dlskip.methods.settings import FULL, PlannedSetting
from dlskip.models import artifact

TITLE = "Layer-skip pretraining, static sets"


class PretrainStatic(Method):
    """No training of its own: what the random skips of pretraining are worth under a fixed mask."""

    name = "pretrain_static"

    def make(self, params: Params, backbone: str, seed: int) -> list[PlannedSetting]:
        start = artifact.directory("skip_pretrain", backbone, seed)
        where = params.baselines.static.block
        cut = for_shares(params, backbone, start, lambda share, layers: block(share, layers, where), adapters=True)
        return [cut[0].model_copy(update={"setting": FULL, "skip": []}), *cut]


METHOD = PretrainStatic()
