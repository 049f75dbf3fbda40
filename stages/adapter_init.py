"""Stage adapter_init: adapters alone, on instructions."""

from dlskip import config
from dlskip.steps import supervised
from dlskip.workflow.script import stage


def main(backbone: str, seed: int) -> None:
    supervised.adapter_init(config.load_params(backbone=backbone), backbone, seed)


if __name__ == "__main__":
    stage(main, "backbone", "seed")
