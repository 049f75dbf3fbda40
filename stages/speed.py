"""Stage speed: measured time of one method's prefill and decoding, at every setting."""

from dlskip import config
from dlskip.evaluation.speed import time_method
from dlskip.workflow.script import stage


def main(method: str, backbone: str, seed: int) -> None:
    time_method(config.load_params(backbone=backbone), method, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "backbone", "seed")
