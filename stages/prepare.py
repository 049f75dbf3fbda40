"""Stage prepare: raw rows to validated prompts, manifest and overlap report."""

from pathlib import Path

from dlskip import backbone, config
from dlskip.cli import stage
from dlskip.data.prepare import prepare


def main() -> None:
    params = config.load()
    tokenizers = {name: backbone.load_tokenizer(name, params.backbones[name]) for name in params.grid.backbones}
    prepare(params.prepare, Path("data/prepared"), tokenizers)


if __name__ == "__main__":
    stage(main)
