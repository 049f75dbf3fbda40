"""Stage baselines: make a method that ours is compared with: train it, or work out which layers it drops."""

from dlskip import config
from dlskip.methods import registry
from dlskip.workflow.script import stage


def main(method: str, backbone: str, seed: int) -> None:
    registry.make(config.load_params(backbone=backbone), method, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "backbone", "seed")
