"""Stage skip_pretrain: random skips under a teacher."""

from dlskip import config
from dlskip.steps import pretrain
from dlskip.workflow.script import stage


def main(backbone: str, seed: int) -> None:
    pretrain.skip_pretrain(config.load_params(backbone=backbone), backbone, seed)


if __name__ == "__main__":
    stage(main, "backbone", "seed")
