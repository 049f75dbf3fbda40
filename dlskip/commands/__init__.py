"""The command line: ``dlskip <command>``, the same as ``python -m dlskip <command>``.

A command is a module here with ``add`` (its options) and ``run``, or with ``call`` alone, which is given all arguments
as they are. Packages of an extra are imported when the command runs.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from keyword import iskeyword
from typing import Any, Literal

import dlskip
from dlskip.workflow import script as cli  # noqa: F401 - before the libraries whose remarks it silences


@dataclass(frozen=True)
class Command:
    """One command of the list that ``dlskip --help`` prints.

    Args:
        summary: What it does.
        extra: What ``pip install 'dlskip[...]'`` must have installed; None = it needs the library alone.
        takes: ``model``: its first argument is a model, with the options of ``from_pretrained``; ``options``: its own
            alone; ``anything``: another program's arguments, which are handed on.
        default: The model if none is named.
    """

    summary: str
    extra: str | None = None
    takes: Literal["model", "options", "anything"] = "model"
    default: str | None = None


# Each is the module of its name in this package (``try_``, since ``try`` cannot be imported).
COMMANDS = {
    "try": Command("watch a trained model skip layers, and see how fast it is here", default="smollm2-135m"),
    "generate": Command("continue a prompt, and show which layers ran"),
    "bench": Command("measure the speed: full depth, the plain backbone, models cut to the same depth", "bench"),
    "calibrate": Command("find the threshold for a budget of layers, or for a bound on lost quality", "bench"),
    "evaluate": Command("quality and layers run on rows with known answers, at several thresholds", "bench"),
    "speculate": Command("lossless decoding: are the tokens those of full depth, and is it faster?", "bench"),
    "export": Command("write a plain model without the layers that some prompts never use", "bench"),
    "release": Command("turn what the workflow trained into a folder to publish", takes="options"),
    "pipeline": Command("run the DVC workflow, apply a recipe, check, show", "pipeline", takes="options"),
    "harness": Command("run EleutherAI's lm-evaluation-harness on a model", "harness", takes="anything"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; a mistake that the user can mend ends with one clear message and a non-zero exit."""
    from dlskip.errors import needs, one_message

    given = list(sys.argv[1:] if arguments is None else arguments)
    with one_message():
        run = _chosen(given)
        extra = COMMANDS[given[0]].extra
        with needs(extra) if extra else nullcontext():
            run()


def _chosen(given: list[str]) -> Callable[[], None]:
    """What the arguments ask for; wrong ones, and ``--help``, end the program here."""
    if given and given[0] in COMMANDS and COMMANDS[given[0]].takes == "anything":
        return partial(_module(given[0]).call, given[1:])
    options = _parser().parse_args(given)
    return partial(options.run, options)


def _module(name: str) -> Any:
    return import_module(f"dlskip.commands.{name}{'_' * iskeyword(name)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dlskip", description=dlskip.__doc__)
    parser.add_argument("--version", action="version", version=f"dlskip {dlskip.__version__}")
    chosen = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        module = _module(name)
        part = chosen.add_parser(name, help=command.summary, description=module.__doc__)
        if command.takes == "model":
            add_model(part, command.default)
        if command.takes != "anything":
            module.add(part)
            part.set_defaults(run=module.run)
    return parser


def add_model(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """The options of ``dlskip.from_pretrained``, the same for every command.

    Args:
        parser: Of the command.
        default: The model if none is named; None = one must be.
    """
    group = parser.add_argument_group("model")
    what = "folder or hub id of a skipping model, or a folder that the workflow trained"
    if default is None:
        group.add_argument("model", help=what)
    else:
        group.add_argument("model", nargs="?", default=default, help=f"{what} (default: %(default)s)")
    group.add_argument("--backbone", help="folder or hub id of the base model (default: what the checkpoint names)")
    group.add_argument("--threshold", type=share, help="skip a layer if its probability exceeds this (default: stored)")
    group.add_argument("--price", type=positive, help="of a layer, for controllers conditioned on it (default: stored)")
    group.add_argument("--budget", type=share, help="share of layers to run, from what `dlskip calibrate` measured")
    group.add_argument(
        "--batch-policy", choices=["per_sample", "majority", "any", "all"], help="who decides in a batch"
    )
    group.add_argument("--kv-fill", choices=["copy", "project"], help="keys and values of skipped layers")
    group.add_argument("--revision", help="branch, tag or commit on the hub")
    group.add_argument("--dtype", default="auto", help="of the weights (auto: as stored)")
    group.add_argument("--device", help="cpu, cuda, ... (default: cpu)")
    group.add_argument(
        "--compile",
        action="store_true",
        help="faster decoding: compiled code for single rows on a CPU (needs g++), recorded graphs on CUDA",
    )
    group.add_argument("--trust-remote-code", action="store_true", help="run code from the base model's repository")


def count(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, not {text!r}")
    return int(text)


def whole(text: str) -> int:
    """An argument that is a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of 0 or more, not {text!r}")
    return int(text)


def share(text: str) -> float:
    """An argument that lies in [0, 1]."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text!r}")
    return value


def positive(text: str) -> float:
    """An argument that is a number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
