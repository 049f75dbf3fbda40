"""Stage evaluate: one method on the test rows, at every setting."""

from dlskip import config
from dlskip.cli import stage
from dlskip.evaluate import evaluate


def main(method: str, backbone: str, seed: int) -> None:
    evaluate(config.load(backbone=backbone), method, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "backbone", "seed")
