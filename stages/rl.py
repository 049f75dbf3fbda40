"""Stage rl: REINFORCE on the controllers."""

from dlskip import config
from dlskip.steps import reinforce
from dlskip.workflow.script import stage


def main(backbone: str, seed: int) -> None:
    reinforce.rl(config.load_params(backbone=backbone), backbone, seed)


if __name__ == "__main__":
    stage(main, "backbone", "seed")
