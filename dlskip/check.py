"""``python -m dlskip.check`` checks params.yaml before DVC reads it."""

from __future__ import annotations

from dlskip import config
from dlskip.cli import stage
from dlskip.methods.names import checked


def main() -> None:
    """Every key, type and range; and that every method of the grid is one that there is."""
    checked(config.load())


if __name__ == "__main__":
    stage(main)
