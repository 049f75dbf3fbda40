"""Stage prepare: raw rows to validated prompts, manifest and overlap report."""

from dlskip import config
from dlskip.data.io import DATA
from dlskip.data.prepare import prepare
from dlskip.models import backbone
from dlskip.workflow.script import stage


def main() -> None:
    params = config.load_params()
    tokenizers = {name: backbone.load_tokenizer(name, params.backbones[name]) for name in params.grid.backbones}
    prepare(params.prepare, DATA, tokenizers)
    for name in ("manifest.json", "overlap.json"):  # beside the rows: they change with the backbones, the rows do not
        (DATA / name).replace(DATA.parent / name)


if __name__ == "__main__":
    stage(main)
