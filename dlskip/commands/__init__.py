"""The command line, ``python -m dlskip`` (or ``dlskip`` where the package is installed)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import dlskip
from dlskip import cli  # noqa: F401 - before the libraries whose remarks it silences
from dlskip.errors import DlskipError

COMMANDS = {
    "generate": "continue a prompt, and say which layers ran",
    "bench": "time prefill and decoding against full depth, the plain backbone and cut models",
    "calibrate": "find the threshold for a budget of layers, or for a bound on the quality lost",
    "evaluate": "quality and layers run over rows with known answers, at several thresholds",
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
    group.add_argument("--threshold", type=float, help="skip where a controller is surer than this (default: stored)")
    group.add_argument("--batch-policy", choices=["per_sample", "majority", "any", "all"])
    group.add_argument("--kv-fill", choices=["copy", "project"])
    group.add_argument("--revision", help="branch, tag or commit on the hub")
    group.add_argument("--dtype", default="auto", help="of the weights (auto: as stored)")
    group.add_argument("--device", help="cpu, cuda, ... (default: cpu)")
    group.add_argument("--trust-remote-code", action="store_true", help="let code of the base model's repository run")


def fail(message: str, where: str, mend: str | None = None) -> DlskipError:
    """An error about a command's argument."""
    return DlskipError(message, where=where, mend=mend)
