"""Stage rl: REINFORCE on the controllers."""

from dlskip import config
from dlskip.cli import stage
from dlskip.steps import reinforce


def main(backbone: str, seed: int) -> None:
    reinforce.rl(config.load(backbone=backbone), backbone, seed)


if __name__ == "__main__":
    stage(main, "backbone", "seed")
