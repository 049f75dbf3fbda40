"""Stage speed: measured time of one method's prefill and decoding, at every setting."""

from dlskip import config
from dlskip.cli import stage
from dlskip.speed import time_method


def main(method: str, backbone: str, seed: int) -> None:
    time_method(config.load(backbone=backbone), method, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "backbone", "seed")
