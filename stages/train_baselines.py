"""Stage train_baselines: the model that a baseline trains for one share of layers."""

from dlskip import config
from dlskip.methods import baselines
from dlskip.workflow.script import stage


def main(method: str, share: float, backbone: str, seed: int) -> None:
    baselines.train_baseline(config.load_params(backbone=backbone), method, share, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "share", "backbone", "seed")
