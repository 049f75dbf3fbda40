"""Recipes: each one loads, the default comes back byte for byte, changes on the command line win."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dlskip import config
from dlskip.errors import DlskipError
from dlskip.models import artifact
from dlskip.skip import skipper_of
from dlskip.workflow import recipe

REPO = Path(__file__).resolve().parents[2]
NAMES = recipe.names(REPO / "recipes")


@pytest.fixture
def there(tmp_path, monkeypatch) -> Path:
    """A directory with the recipes and the default params.yaml, as the current one."""
    shutil.copytree(REPO / "recipes", tmp_path / "recipes")
    shutil.copy(tmp_path / "recipes" / "embedded.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def apply(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> config.Params:
    monkeypatch.setattr("sys.argv", ["recipe", *arguments])
    recipe.main()
    return config.load_params()


def test_the_recipes_are_there():
    assert {"embedded", "glue", "paper", "smoke"} <= set(NAMES)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_valid(monkeypatch, name):
    assert apply(monkeypatch, name).recipe == name


@pytest.mark.parametrize("name", NAMES)
def test_the_default_comes_back_byte_for_byte(there, monkeypatch, name):
    before = (there / "params.yaml").read_bytes()
    apply(monkeypatch, name)
    apply(monkeypatch, "embedded")
    assert (there / "params.yaml").read_bytes() == before


def test_params_of_the_repository_are_a_recipe():
    text = (REPO / "params.yaml").read_text(encoding="utf-8")
    name = config.load_params(REPO / "params.yaml").recipe
    assert name in NAMES
    if name == recipe.DEFAULT:
        assert text == (REPO / "recipes" / "embedded.yaml").read_text(encoding="utf-8")


def test_a_recipe_changes_only_what_it_lists(there, monkeypatch):
    default, glue = config.load_params().model_dump(), apply(monkeypatch, "glue").model_dump()
    listed = config.read_yaml(there / "recipes" / "glue.yaml")
    assert {k for k in default if default[k] != glue[k]} <= {"recipe", *listed}
    assert glue["prepare"]["source"] == "jsonl" and glue["prepare"]["seed"] == default["prepare"]["seed"]
    assert glue["rl"]["train"]["lr"] == default["rl"]["train"]["lr"]


@pytest.mark.usefixtures("there")
def test_open_mappings_are_replaced_whole(monkeypatch):
    assert set(apply(monkeypatch, "smoke").backbones) == {"tiny-llama", "tiny-gpt2"}


def test_comments_and_notation_survive(there, monkeypatch):
    apply(monkeypatch, "smoke")
    text = (there / "params.yaml").read_text(encoding="utf-8")
    assert "# lambda" in text and "# layers_run | signed" in text
    assert "backbones: [tiny-llama] # names from" in text and "seeds: [0]" in text


@pytest.mark.usefixtures("there")
def test_changes_on_the_command_line_win(monkeypatch):
    params = apply(monkeypatch, "glue", "prepare.path=/data/nlp", "rl.price=1e-1", "grid.seeds=[0, 1]")
    assert params.prepare.path == "/data/nlp"
    assert params.rl.price == 0.1
    assert params.grid.seeds == [0, 1]
    assert apply(monkeypatch, "embedded", "model.bottleneck=8").model.bottleneck == 8
    variants = apply(monkeypatch, "embedded", "ablations.variants.no_mixer.start=skip_pretrain").ablations.variants
    assert variants["no_mixer"].start == "skip_pretrain" and "no_pretrain" in variants, "one key, not the whole mapping"


def test_only_what_a_recipe_changes_reads_differently() -> None:
    before, after = (recipe.render(name, directory=REPO / "recipes").splitlines() for name in ("embedded", "glue"))
    assert len(before) == len(after)
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed
    assert not any("null" in line or "prices" in line for line in changed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["glu"], r"recipes: no recipe 'glu'\n  mend: one of embedded, full, glue"),
        (["glue", "rl.prcie=1"], r"recipe glue: rl\.prcie: unknown key, did you mean `price`"),
        (["embedded", "rl.price=-1"], r"rl\.price: Input should be greater than or equal to 0"),
        (["embedded", "rl=1"], r"rl: Input should be a valid dictionary"),
        (["embedded", "recipe.name=1"], r"recipe: Input should be a valid string"),
    ],
)
def test_mistakes_leave_the_parameters_alone(there, monkeypatch, arguments, message):
    before = (there / "params.yaml").read_bytes()
    with pytest.raises(SystemExit, match=message) as caught:
        apply(monkeypatch, *arguments)
    assert str(caught.value).startswith("error: ")
    assert (there / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("argument", ["novalue", "=3", "rl.price=[1"])
def test_malformed_changes_are_usage_errors(there, monkeypatch, capsys, argument):
    before = (there / "params.yaml").read_bytes()
    with pytest.raises(SystemExit) as caught:
        apply(monkeypatch, "embedded", argument)
    assert caught.value.code == 2 and "key=value" in capsys.readouterr().err
    assert (there / "params.yaml").read_bytes() == before


def test_recipe_files_that_are_broken(there):
    (there / "recipes" / "bad.yaml").write_text("rl: {entropy: [}")
    with pytest.raises(DlskipError, match=r"bad\.yaml: not valid YAML"):
        recipe.render("bad")


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", NAMES)
def test_every_variant_can_start_from_the_weights_that_it_names(monkeypatch, skipping, tmp_path, name):
    params = apply(monkeypatch, name)
    for variant in params.ablations.variants.values():
        if variant.start != "vanilla":  # which has no adapters
            start, _ = skipping(lora=True, **options(params))
            artifact.save(start, tmp_path / "start")
            _, skipper = skipping(lora=True, seed=1, **options(config.varied(params, variant)))
            artifact.load_skip(skipper, tmp_path / "start")
            loaded = skipper.state_dict()
            for key, x in skipper_of(start).state_dict().items():
                assert torch.equal(loaded[key][: len(x)], x)  # a head may have a row more, for the price
                assert not loaded[key][len(x) :].any()


def options(params: config.Params) -> dict[str, Any]:
    """Of attaching skipping to a model, as far as a variant may change them."""
    model = params.model
    return {"reads": model.controller_reads, "kv_fill": model.kv_fill, "prices": model.prices}
