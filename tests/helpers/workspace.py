"""The pipeline's functions without DVC: recipe `smoke` in a folder of its own, its backbone and rows made."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dlskip import config
from dlskip.data.io import DATA
from dlskip.data.prepare import prepare
from dlskip.models import artifact, backbone
from dlskip.workflow import recipe
from tests.helpers import default

REPO = Path(__file__).resolve().parents[2]
SEED = 0


def parameters(name: str = "smoke", **changes: object) -> config.Params:
    """A recipe's parameters; ``changes``: dotted keys, with ``__`` for the dot."""
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    text = recipe.render(name, default.PARAMS.read_text(encoding="utf-8"), overrides, REPO / "recipes")
    return config.validate(YAML(typ="safe", pure=True).load(text))


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch, params: config.Params) -> str:
    """Goes there, makes backbones and rows, and returns the first backbone's name."""
    monkeypatch.chdir(folder)
    tokenizers = {}
    for name in params.grid.backbones:
        backbone.materialise(name, params.backbones[name], backbone.MODELS / name)
        tokenizers[name] = backbone.load_tokenizer(name, params.backbones[name])
    prepare(params.prepare, DATA, tokenizers)
    return params.grid.backbones[0]


def untrained(params: config.Params, name: str, *methods: str) -> None:
    """Artifacts of untrained weights; all but ``vanilla`` have adapters."""
    for method in methods:
        model, _ = artifact.build_model(params, name, weights=None, skipping=method != "vanilla")
        artifact.save(model, artifact.directory(method, name, SEED))
