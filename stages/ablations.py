"""Stage ablations: variants of the RL stage."""

from dlskip import config
from dlskip.cli import stage
from dlskip.steps import reinforce


def main(backbone: str, seed: int) -> None:
    reinforce.ablations(config.load(backbone=backbone), backbone, seed)


if __name__ == "__main__":
    stage(main, "backbone", "seed")
