"""Stage ablations: one step of our method with one part changed or left out."""

from dlskip import config
from dlskip.methods.ablation import ablation
from dlskip.workflow.script import stage


def main(method: str, step: str, backbone: str, seed: int) -> None:
    ablation(config.load_params(backbone=backbone), method, step, backbone, seed)


if __name__ == "__main__":
    stage(main, "method", "step", "backbone", "seed")
