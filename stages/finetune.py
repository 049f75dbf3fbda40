"""Stage finetune: the fine-tuned unskipped model."""

from dlskip import config
from dlskip.steps import supervised
from dlskip.workflow.script import stage


def main(backbone: str, seed: int) -> None:
    supervised.finetune(config.load_params(backbone=backbone), backbone, seed)


if __name__ == "__main__":
    stage(main, "backbone", "seed")
