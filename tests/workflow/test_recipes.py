"""Recipes: each one loads, the default comes back byte for byte, changes on the command line win."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dlskip import config
from dlskip.commands import main
from dlskip.models import artifact
from dlskip.skip import skipper_of
from dlskip.workflow import recipe
from tests.helpers import default

REPO = Path(__file__).resolve().parents[2]
NAMES = recipe.names(REPO / "recipes")


@pytest.fixture
def there(tmp_path, monkeypatch) -> Path:
    """A directory with the recipes and the default params.yaml, as the current one."""
    shutil.copytree(REPO / "recipes", tmp_path / "recipes")
    shutil.copy(default.PARAMS, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def apply(*arguments: str) -> config.Params:
    main(["pipeline", "recipe", *arguments])
    return config.load_params()


def test_the_recipes_are_there():
    assert {"embedded", "glue", "paper", "smoke"} <= set(NAMES)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_valid(name):
    assert apply(name).recipe == name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_default_comes_back_byte_for_byte(there, name):
    before = (there / "params.yaml").read_bytes()
    apply(name)
    apply("embedded")
    assert (there / "params.yaml").read_bytes() == before


def test_the_repository_holds_no_second_copy_of_the_default():
    assert recipe.DEFAULT in NAMES and not (REPO / "recipes" / f"{recipe.DEFAULT}.yaml").exists()
    assert config.load_params(default.PARAMS).recipe == recipe.DEFAULT


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_changes_by_hand_of_the_default_come_back_with_it(there):
    edit(there / "params.yaml", "price: 0.6", "price: 0.7")
    before = (there / "params.yaml").read_bytes()
    assert apply("glue").rl.price == 0.7, "a recipe changes only what it lists"
    assert apply("embedded").rl.price == 0.7
    assert (there / "params.yaml").read_bytes() == before and not recipe.ASIDE.exists()


def test_changes_by_hand_of_a_recipe_are_not_lost_without_a_word(there):
    apply("glue")
    edit(there / "params.yaml", "price: 0.6", "price: 0.7")
    edit(there / "params.yaml", "max_chars: 320", "max_chars: 300")
    before = (there / "params.yaml").read_bytes()
    for name in ("embedded", "smoke", "glue"):
        with pytest.raises(SystemExit, match=r"'glue' does not make: prepare\.max_chars, rl\.price\n"):
            apply(name)
    assert (there / "params.yaml").read_bytes() == before
    assert apply("embedded", "--force").rl.price == 0.6


def test_without_the_default_no_recipe_is_applied(there):
    apply("glue")
    recipe.ASIDE.unlink()
    before = (there / "params.yaml").read_bytes()
    with pytest.raises(SystemExit, match=r"holds recipe 'glue', and the default is not in .*\n  mend: git checkout"):
        apply("embedded")
    assert (there / "params.yaml").read_bytes() == before


def test_a_recipe_changes_only_what_it_lists(there):
    default, glue = config.load_params().model_dump(), apply("glue").model_dump()
    listed = config.read_yaml(there / "recipes" / "glue.yaml")
    assert {k for k in default if default[k] != glue[k]} <= {"recipe", *listed}
    assert glue["prepare"]["source"] == "jsonl" and glue["prepare"]["seed"] == default["prepare"]["seed"]
    assert glue["rl"]["train"]["lr"] == default["rl"]["train"]["lr"]


@pytest.mark.usefixtures("there")
def test_open_mappings_are_replaced_whole():
    assert set(apply("smoke").backbones) == {"tiny-llama", "tiny-gpt2"}


def test_comments_and_notation_survive(there):
    apply("smoke")
    text = (there / "params.yaml").read_text(encoding="utf-8")
    assert "# lambda" in text and "# layers_run | signed" in text
    assert "backbones: [tiny-llama] # names from" in text and "seeds: [0]" in text


@pytest.mark.usefixtures("there")
def test_changes_on_the_command_line_win():
    params = apply("glue", "prepare.path=/data/nlp", "rl.price=1e-1", "grid.seeds=[0, 1]")
    assert params.prepare.path == "/data/nlp"
    assert params.rl.price == 0.1
    assert params.grid.seeds == [0, 1]
    assert apply("embedded", "model.bottleneck=8", "--force").model.bottleneck == 8
    variants = apply("embedded", "ablations.variants.no_mixer.start=skip_pretrain").ablations.variants
    assert variants["no_mixer"].start == "skip_pretrain" and "no_pretrain" in variants, "one key, not the whole mapping"


def test_only_what_a_recipe_changes_reads_differently() -> None:
    text = default.PARAMS.read_text(encoding="utf-8")
    before, after = text.splitlines(), recipe.render("glue", text, directory=REPO / "recipes").splitlines()
    assert len(before) == len(after)
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed
    assert not any("prices" in line or "headline_threshold" in line for line in changed), "null stays as it is written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["glu"], r"recipes: no recipe 'glu'\n  mend: one of embedded, falcon-7b, full, glue"),
        (["glue", "rl.prcie=1"], r"recipe glue: rl\.prcie: unknown key, did you mean `price`"),
        (["embedded", "rl.price=-1"], r"rl\.price: Input should be greater than or equal to 0"),
        (["embedded", "rl=1"], r"rl: Input should be a valid dictionary"),
        (["embedded", "recipe.name=1"], r"recipe: Input should be a valid string"),
    ],
)
def test_mistakes_leave_the_parameters_alone(there, arguments, message):
    before = (there / "params.yaml").read_bytes()
    with pytest.raises(SystemExit, match=message) as caught:
        apply(*arguments)
    assert str(caught.value).startswith("error: ")
    assert (there / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("argument", ["novalue", "=3", "rl.price=[1"])
def test_malformed_changes_are_usage_errors(there, capsys, argument):
    before = (there / "params.yaml").read_bytes()
    with pytest.raises(SystemExit) as caught:
        apply("embedded", argument)
    assert caught.value.code == 2 and "key=value" in capsys.readouterr().err
    assert (there / "params.yaml").read_bytes() == before


def test_a_recipe_on_another_begins_with_what_that_one_changes(there):
    paper, own = apply("paper").model_dump(), apply("opt-1.3b").model_dump()
    assert own["recipe"] == "opt-1.3b" and own["rl"] == paper["rl"] and own["grid"]["seeds"] == paper["grid"]["seeds"]
    assert set(recipe.differences(paper, own)) <= {
        "recipe", *(f"grid.{key}" for key in ("backbones", "baselines", "trained", "ablations", "timed")),
        *(f"backbones.{name}" for name in (*paper["backbones"], *own["backbones"])), "prepare.nlu", "prepare.mt",
    }  # fmt: skip
    (there / "recipes" / "round.yaml").write_text("on: round\n")
    with pytest.raises(SystemExit, match=r"round\.yaml: is on itself"):
        apply("round")
    (there / "recipes" / "ahead.yaml").write_text("on: behind\n")
    (there / "recipes" / "behind.yaml").write_text("on: ahead\n")
    with pytest.raises(SystemExit, match=r"behind\.yaml: is on itself"):
        apply("ahead")
    (there / "recipes" / "lost.yaml").write_text("on: papre\n")
    with pytest.raises(SystemExit, match="no recipe 'papre'"):
        apply("lost")


def test_recipe_files_that_are_broken(there):
    (there / "recipes" / "bad.yaml").write_text("rl: {entropy: [}")
    with pytest.raises(SystemExit, match=r"bad\.yaml: not valid YAML"):
        apply("bad")


@pytest.mark.slow
@pytest.mark.usefixtures("there")
def test_every_variant_can_start_from_the_weights_that_it_names(skipping, tmp_path):
    pairs = []  # of all recipes, each once
    for params in map(apply, NAMES):
        for variant in params.ablations.variants.values():
            pair = options(params), options(config.varied(params, variant))
            if variant.start != "vanilla" and pair not in pairs:  # which has no adapters
                pairs.append(pair)
    assert len(pairs) > 3
    for before, after in pairs:
        start, _ = skipping(lora=True, **before)
        artifact.save(start, tmp_path / "start")
        _, skipper = skipping(lora=True, seed=1, **after)
        artifact.load_skip(skipper, tmp_path / "start")
        loaded = skipper.state_dict()
        for key, x in skipper_of(start).state_dict().items():
            assert torch.equal(loaded[key][: len(x)], x)  # a head may have a row more, for the price
            assert not loaded[key][len(x) :].any()


def options(params: config.Params) -> dict[str, Any]:
    """Of attaching skipping to a model, as far as a variant may change them."""
    model = params.model
    return {"reads": model.controller_reads, "kv_fill": model.kv_fill, "prices": model.prices}


@pytest.mark.parametrize(
    "archive", sorted((REPO / "reports/reference").glob("*/runs.tar.xz")), ids=lambda path: path.parent.name
)
def test_the_parameters_of_a_report_that_can_be_redrawn_are_valid(archive: Path) -> None:
    """A new key of params.yaml belongs into these files too: `make report R=<name>` reads them."""
    params = config.load_params(archive.with_name("params.yaml"))
    assert params.recipe == archive.parent.name
