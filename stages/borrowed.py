"""Stage borrowed: which layers a method that trains nothing drops, on weights that were trained for ours."""

from dlskip import config
from dlskip.methods.borrowed import make_borrowed
from dlskip.workflow.script import stage


def main(method: str, backbone: str, seed: int) -> None:
    make_borrowed(config.load_params(backbone=backbone), method, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "backbone", "seed")
