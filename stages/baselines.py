"""Stage baselines: which layers a method that ours is compared with drops at each share."""

from dlskip import config
from dlskip.methods import baselines
from dlskip.workflow.script import stage


def main(method: str, backbone: str, seed: int) -> None:
    baselines.make_baseline(config.load_params(backbone=backbone), method, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "backbone", "seed")
