"""Stage evaluate: one method on the test rows of one kind of task, at every setting."""

from typing import Literal

from dlskip import config
from dlskip.evaluation.evaluate import evaluate
from dlskip.workflow.script import stage


def main(method: str, kind: Literal["nlu", "mt"], backbone: str, seed: int) -> None:
    evaluate(config.load_params(backbone=backbone), method, kind, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "kind", "backbone", "seed")
