"""Stage backbone: the language model, dequantised or made once, or checked if it lies elsewhere."""

from dlskip import config
from dlskip.models import backbone as backbones
from dlskip.workflow.script import stage


def main(backbone: str) -> None:
    params = config.load_params(backbone=backbone)
    backbones.materialise(backbone, params.backbones[backbone], backbones.MODELS / backbone)


if __name__ == "__main__":
    stage(main, "backbone")
