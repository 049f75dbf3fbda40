"""How a stage script runs: arguments in, one clear message and a non-zero exit on a mistake."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

from dlskip.errors import DlskipError

# Libraries' remarks on each other, which a reader of the pipeline's output can do nothing about. Set here because a
# stage imports this module before them.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|peft|accelerate")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

HELP = {
    "backbone": "a name under `backbones` in params.yaml",
    "kind": "nlu (answers to choose from) or mt (translations)",
    "method": "a name under `grid` in params.yaml",
    "share": "of the layers that are dropped",
    "step": "of training",
    "seed": "of the order of examples, masks and actions",
}
TYPES: dict[str, type] = {"seed": int, "share": float}
CHOICES = {"kind": ("nlu", "mt"), "step": ("skip_pretrain", "rl", "mixer")}


def stage(main: Callable[..., Any], *arguments: str) -> None:
    """Calls ``main`` with the named command-line options (``--seed`` is a number) and reports mistakes on one line.

    A full disk is reported likewise; everything else is a bug and keeps its traceback.
    """
    epilog = "Everything else stands in params.yaml. `dvc repro` runs what is out of date."
    parser = argparse.ArgumentParser(description=sys.modules[main.__module__].__doc__, epilog=epilog)
    for name in arguments:
        parser.add_argument(
            f"--{name}", required=True, type=TYPES.get(name, str), choices=CHOICES.get(name), help=HELP[name]
        )
    options = vars(parser.parse_args())
    try:
        main(**options)
    except DlskipError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno != 28:  # ENOSPC
            raise
        sys.exit(f"error: {error.filename or 'disk'}: no space left\n  mend: free some and run the same command again")
