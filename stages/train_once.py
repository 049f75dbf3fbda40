"""Stage train_once: the one model of a baseline that trains one for all of its settings."""

from dlskip import config
from dlskip.methods import baselines
from dlskip.workflow.script import stage


def main(method: str, backbone: str, seed: int) -> None:
    baselines.train_baseline_once(config.load_params(backbone=backbone), method, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "backbone", "seed")
