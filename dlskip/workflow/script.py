"""How a stage script runs: arguments in, one clear message and a non-zero exit on a mistake."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

# Libraries' remarks on each other, which a reader of the pipeline's output can do nothing about. Set here because a
# stage imports this module before them.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|accelerate")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

LOCKS = Path(".resume")  # beside the checkpoints


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while the libraries are imported, which takes seconds, needs no traceback either.

    So this module, which is imported first, imports none.
    """
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _hook

HELP = {
    "backbone": "a name under `backbones` in params.yaml",
    "kind": "nlu (answers to choose from) or mt (translations)",
    "method": "a name under `grid` in params.yaml",
    "share": "of the layers that are dropped",
    "step": "of training",
    "seed": "of the order of examples, masks and actions",
}


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^32 - 1, not {text!r:.40}")
    return int(text)


def _share(text: str) -> float:
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text!r:.40}")
    return float(text)


TYPES: dict[str, Callable[[str], Any]] = {"seed": _seed, "share": _share}
CHOICES = {"kind": ("nlu", "mt"), "step": ("skip_pretrain", "rl", "mixer")}


def stage(main: Callable[..., Any], *arguments: str) -> None:
    """Calls ``main`` with the named command-line options (``--seed`` is a number) and reports mistakes on one line.

    What the machine refuses (a full disk, no permission, Ctrl-C) is reported likewise; everything else is a bug and
    keeps its traceback. A second process on the same arguments in the same folder is told that there is one.
    """
    epilog = "Everything else stands in params.yaml. `dvc repro` runs what is out of date."
    from dlskip.errors import one_message

    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__, epilog=epilog)
    for name in arguments:
        parser.add_argument(
            f"--{name}", required=True, type=TYPES.get(name, str), choices=CHOICES.get(name), help=HELP[name]
        )
    options = vars(parser.parse_args())
    name = Path(sys.argv[0]).stem if main.__module__ == "__main__" else main.__module__.rpartition(".")[2]
    with one_message(), _alone("-".join([name, *map(str, options.values())])):
        main(**options)


def _alone(cell: str) -> Any:
    """Holds the lock of a cell; of several processes of ``accelerate launch`` the first does, for all."""
    from dlskip.files import alone

    return nullcontext() if os.environ.get("RANK", "0") != "0" else alone(LOCKS / f"{quote(cell, safe='')[:200]}.lock")
