"""The command line, ``python -m dlskip`` (or ``dlskip`` where the package is installed)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import dlskip
from dlskip.errors import DlskipError
from dlskip.workflow import script as cli  # noqa: F401 - before the libraries whose remarks it silences

COMMANDS = {
    "generate": "continue a prompt, and say which layers ran",
    "bench": "time prefill and decoding against full depth, the plain backbone and cut models",
    "calibrate": "find the threshold for a budget of layers, or for a bound on the quality lost",
    "evaluate": "quality and layers run over rows with known answers, at several thresholds",
    "speculate": "lossless decoding: is it identical to full depth, and faster?",
    "export": "write a plain model without the layers that some prompts never use",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; a mistake that the user can mend ends with one clear message and a non-zero exit."""
    parser = argparse.ArgumentParser(prog="dlskip", description=dlskip.__doc__)
    parser.add_argument("--version", action="version", version=f"dlskip {dlskip.__version__}")
    chosen = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, summary in COMMANDS.items():
        module = import_module(f"dlskip.commands.{name}")
        part = chosen.add_parser(name, help=summary, description=module.__doc__)
        add_model(part)
        module.add(part)
        part.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except DlskipError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options of ``dlskip.from_pretrained``, the same for every command."""
    group = parser.add_argument_group("model")
    group.add_argument("model", help="folder or hub id of a skipping model, or a pipeline artifact")
    group.add_argument("--backbone", help="folder or hub id of the base model (default: what the checkpoint names)")
    group.add_argument("--threshold", type=share, help="skip where a controller is surer than this (default: stored)")
    group.add_argument("--price", type=float, help="of a layer, for controllers that are told one (default: stored)")
    group.add_argument("--budget", type=share, help="share of layers to run, read off what `calibrate` stored")
    group.add_argument("--batch-policy", choices=["per_sample", "majority", "any", "all"])
    group.add_argument("--kv-fill", choices=["copy", "project"])
    group.add_argument("--revision", help="branch, tag or commit on the hub")
    group.add_argument("--dtype", default="auto", help="of the weights (auto: as stored)")
    group.add_argument("--device", help="cpu, cuda, ... (default: cpu)")
    group.add_argument(
        "--compile",
        action="store_true",
        help="single rows on a CPU through compiled code (needs g++), decoding on CUDA through graphs",
    )
    group.add_argument("--trust-remote-code", action="store_true", help="let code of the base model's repository run")


def count(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, not {text!r}")
    return int(text)


def share(text: str) -> float:
    """An argument that lies in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text!r}")
    return value
