"""Stage mixer: everything, under the policy's own masks."""

from dlskip import config
from dlskip.steps import mixer
from dlskip.workflow.script import stage


def main(backbone: str, seed: int) -> None:
    mixer.mixer(config.load_params(backbone=backbone), backbone, seed)


if __name__ == "__main__":
    stage(main, "backbone", "seed")
