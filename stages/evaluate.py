"""Stage evaluate: one method on the test rows of one kind of task, at every setting."""

from typing import Literal

from dlskip import config
from dlskip.cli import stage
from dlskip.evaluate import evaluate


def main(method: str, kind: Literal["nlu", "mt"], backbone: str, seed: int) -> None:
    evaluate(config.load(backbone=backbone), method, kind, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "kind", "backbone", "seed")
