"""Stage pretrain_static: the static sets for the skip-pretrained model."""

from dlskip import config
from dlskip.methods import base
from dlskip.methods.pretrain_static import METHOD
from dlskip.workflow.script import stage


def main(backbone: str, seed: int) -> None:
    base.make_plan(METHOD, config.load_params(backbone=backbone), backbone, seed)


if __name__ == "__main__":
    stage(main, "backbone", "seed")
