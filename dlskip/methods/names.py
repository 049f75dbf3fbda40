"""The methods' names, for people and for params.yaml. Imports nothing heavy: the report needs no model."""

from __future__ import annotations

from dlskip.config import Params
from dlskip.errors import DlskipError

TITLES = {
    "vanilla": "Vanilla",
    "skip_decode": "Skip-decode",
    "static": "Static (Yuan et al.)",
    "pretrain_static": "Layer-skip pretraining, static sets",
    "unified": "Unified skipping",
    "early_exit": "Early exit",
    "shortgpt": "ShortGPT",
    "ours": "Ours",
    "random": "Random, matched rate",
}
TABLE1 = ["vanilla", "skip_decode", "static", "pretrain_static", "ours"]  # the paper's table 1
TRAINING_FREE = ["unified", "early_exit", "shortgpt"]


def title(method: str) -> str:
    """A method's name for people; an ablation has its own."""
    return TITLES.get(method, method.replace("_", " "))


def checked(params: Params) -> Params:
    """The parameters, if every baseline they name is one that there is.

    Raises:
        DlskipError: One is not.
    """
    known = [name for name in TITLES if name not in ("vanilla", "pretrain_static", "ours", "random")]
    if unknown := [name for name in params.grid.baselines if name not in known]:
        raise DlskipError(
            f"no method {unknown[0]!r}", where="params.yaml: grid.baselines", mend=f"one of {', '.join(known)}"
        )
    return params
