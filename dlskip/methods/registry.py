"""Methods by name: ``dlskip/methods/<name>.py`` holds ``METHOD``.

They are looked up when asked for, so that a stage of one method does not depend on the files of the others.
"""

from __future__ import annotations

import importlib
import importlib.util
import time

from dlskip import provenance
from dlskip.config import Params
from dlskip.data.io import DATA, data_sha256
from dlskip.errors import DlskipError
from dlskip.methods import base
from dlskip.methods.base import Method
from dlskip.methods.learned import Learned, Vanilla
from dlskip.models import artifact


def method(name: str) -> Method:
    """A method by its name. What has no file is an ablation: the plan in its artifact says whose weights it uses."""
    if name == "vanilla":
        return Vanilla()
    return baseline(name) if _module(name) else Learned(name)


def baseline(name: str) -> Method:
    """A method that ours is compared with.

    Raises:
        DlskipError: There is none of that name.
    """
    module = _module(name)
    found = importlib.import_module(module) if module else None
    if not isinstance(made := getattr(found, "METHOD", None), Method):
        raise DlskipError(
            f"no method {name!r}", where="params.yaml: grid", mend="dlskip/methods/names.py lists those there are"
        )
    return made


def _module(name: str) -> str | None:
    module = f"dlskip.methods.{name}"
    return module if importlib.util.find_spec(module) else None


def make(params: Params, name: str, backbone: str, seed: int) -> None:
    """Trains or calibrates a baseline and writes its plan, and where it comes from (stage ``baselines``)."""
    started, section = time.time(), getattr(params.baselines, name)
    base.make(baseline(name), params, backbone, seed)
    if not params.baselines.trains(name):  # the models of one that trains say it themselves
        provenance.write(
            artifact.directory(name, backbone, seed), stage="baselines", config={name: section}, seed=seed,
            data_sha256=data_sha256(DATA), device=artifact.device_of(params), started=started,
        )  # fmt: skip
