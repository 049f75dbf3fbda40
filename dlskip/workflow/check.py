"""Checks params.yaml before DVC reads it."""

from __future__ import annotations

from dlskip import config
from dlskip.data.sources import check_rows


def check() -> None:
    """Every key, type, range and name, and what a slow CPU means.

    Raises:
        DlskipError: A key is wrong, and which; or the rows that `prepare.path` names are not there.
    """
    params = config.load_params()
    check_rows(params.prepare)
    import torch  # seconds, which nobody who mistyped a key has to wait

    from dlskip.models.backbone import dtype_of

    on_cpu = params.device == "cpu" or not torch.cuda.is_available()
    automatic = any(spec.dtype == "auto" for spec in params.backbones.values())
    if on_cpu and automatic and dtype_of("auto") is torch.float32:
        print("note: float32, as this CPU has no bfloat16 arithmetic (AMX, AVX-512 BF16): about three times as slow")
