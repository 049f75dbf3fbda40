"""Parameters: each kind of mistake gives one message that names the key, says what is wrong and how to mend it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from dlskip import config
from dlskip.errors import DlskipError
from tests.helpers import default

REPO = Path(__file__).resolve().parents[2]
DEFAULT = config.read_yaml(default.PARAMS)
GONE = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The default parameters with one dotted key set or removed."""
    data = copy.deepcopy(DEFAULT)
    *outer, last = path.split(".")
    place = data
    for key in outer:
        place = place[key]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return data


BAD = [
    # unknown keys
    ("rl.prcie", 1, "rl.prcie: unknown key, did you mean `price`? (got 1)"),
    ("finetune.train.max_len", 8, "finetune.train.max_len: unknown key, did you mean `max_length`?"),
    ("devise", "cpu", "devise: unknown key, did you mean `device`?"),
    ("model.zzz", 1, "model.zzz: unknown key (got 1)"),
    # missing keys
    ("rl", GONE, "rl: is missing"),
    ("finetune.train.lr", GONE, "finetune.train.lr: is missing"),
    # wrong types
    ("rl", None, "rl: Input should be a valid dictionary"),
    ("rl.price", "much", "rl.price: Input should be a valid number"),
    ("rl.rollouts", 2.5, "rl.rollouts: Input should be a valid integer"),
    ("rl.sampling.enabled", "perhaps", "rl.sampling.enabled: Input should be a valid boolean"),
    ("grid.seeds", 0, "grid.seeds: Input should be a valid list (got 0)"),
    ("grid.seeds", ["a"], "grid.seeds.0: Input should be a valid integer"),
    ("backbones.smollm2", "smollm2", "backbones.smollm2: Input should be a valid dictionary"),
    # out of range
    ("rl.price", -0.1, "rl.price: Input should be greater than or equal to 0 (got -0.1)"),
    ("finetune.train.lr", 0, "finetune.train.lr: Input should be greater than 0 (got 0)"),
    ("finetune.train.lr", float("inf"), "finetune.train.lr: Input should be a finite number"),
    ("finetune.train.lr", float("nan"), "finetune.train.lr: Input should be a finite number"),
    ("skip_pretrain.p", 1.0, "skip_pretrain.p: Input should be less than 1 (got 1.0)"),
    ("mixer.w_end", 1.5, "mixer.w_end: Input should be less than or equal to 1"),
    ("grid.seeds", [], "grid.seeds: List should have at least 1 item"),
    ("evaluate.thresholds", [0.5, 50], "evaluate.thresholds.1: Input should be less than or equal to 1 (got 50)"),
    # not among the choices
    ("device", "tpu", "device: Input should be 'auto', 'cpu' or 'cuda' (got 'tpu')"),
    ("evaluate.batches", [1, 7], "evaluate.batches.1: Input should be 1, 8, 16 or 'per_sample' (got 7)"),
    ("backbones", {"a/b": {"source": "x"}}, "backbones.a/b.[key]: String should match pattern"),
    # keys that must agree
    ("grid.own", ["unified"], "grid.own.0: Input should be 'vanilla' or 'ours' (got 'unified')"),
    ("grid.timed", ["magic"], "grid.timed names ['magic']: list each in grid.own, baselines, borrowed or ablations"),
    ("grid.trained", [], "grid.trained must be ['static']: the baselines with a `train` section"),
    ("grid.trained_once", ["static"], "grid.trained_once must be []: the baselines that train one model"),
    ("grid.borrowed", ["unified"], "grid.borrowed names 'unified': it takes skip_decode_on_skip_pretrain, "),
    ("grid.borrowed", ["pretrain_static_on_ours"], "grid.borrowed names 'pretrain_static_on_ours': it takes "),
    ("grid.ablations", ["magic"], "grid.ablations names ['magic'], which `ablations.variants` does not define"),
    ("grid.backbones", ["gpt5"], "grid.backbones names ['gpt5'], which `backbones` does not define"),
    ("prepare.source", "jsonl", "prepare: source 'jsonl' needs `path`"),
    ("rl.rollouts", 1, "rl: baseline 'rloo' needs rollouts >= 2"),
    ("rl.train.epochs", 2, "rl.train: give exactly one of `steps` and `epochs`"),
    ("rl.train.steps", None, "rl.train: give exactly one of `steps` and `epochs`"),
    # variants are checked before anything is trained
    ("ablations.variants.no_mixer.set", {"rl": {"entropi": 0}},
     "ablations.variants.no_mixer.set.rl.entropi: unknown key, did you mean `entropy`?"),
    ("ablations.variants.no_mixer.set", {"rl": {"sampling": {"tau": 3}}},
     "ablations.variants.no_mixer.set.rl.sampling.tau: Input should be less than"),
    ("ablations.variants.no_mixer.set", {"finetune": {}}, "ablations.variants.no_mixer.set.finetune.[key]: "),
    ("ablations.variants.no_mixer.start", "ours", "ablations.variants.no_mixer.start: Input should be 'vanilla', "),
    ("ablations.variants.priced.stages", ["mixer", "rl"],
     "ablations.variants.priced: stages must be in their order, each once: ['rl', 'mixer']"),
    ("ablations.variants.priced.set", {"model": {"prices": [2.0, 0.3]}},
     "ablations.variants.priced.set.model: prices must rise, got [2.0, 0.3]"),
    ("model.prices", [0.3, 2.0], "model.prices: set it in a variant (ablations.variants)"),
    ("rl.price", 0, "rl: price must be greater than 0 where `share` adapts it"),
    ("ablations.variants.priced.set", {"model": {"prices": [0.3, 2.0]}},
     "ablations.variants.priced draws prices, so it needs rl.share: null in its `set`"),
    ("mixer.share", None, "give both rl.share and mixer.share, or null for both"),
    ("ablations.variants.no_mixer.set", {"rl": {"share": None}},
     "ablations.variants.no_mixer: give both rl.share and mixer.share, or null for both"),
    ("evaluate", DEFAULT["evaluate"] | {"beams": 4, "batches": [1, 8]},
     "evaluate: beams: 4 goes with batches 1 and per_sample alone: a prompt is searched by itself, so a batch of 8"),
    ("evaluate.beams", 0, "evaluate.beams: Input should be greater than or equal to 1 (got 0)"),
    ("evaluate.shares", [0.5, 1.0], "evaluate.shares.1: Input should be less than 1 (got 1.0)"),
    # a deleted key, numbers out of range, what stands twice, and names of nothing
    ("rl.price", GONE, "rl.price: is missing"),
    ("device", GONE, "device: is missing"),
    ("model.tune.r", GONE, "model.tune.r: is missing"),
    ("finetune.train.max_length", GONE, "finetune.train.max_length: is missing"),
    ("evaluate.traces", GONE, "evaluate.traces: is missing"),
    ("grid.seeds", [-1], "grid.seeds.0: Input should be greater than or equal to 0 (got -1)"),
    ("grid.seeds", [0, 1, 0], "grid.seeds: names 0 twice"),
    ("grid.timed", ["ours", "ours"], "grid.timed: names 'ours' twice"),
    ("evaluate.thresholds", [0.5, 0.5], "evaluate.thresholds: names 0.5 twice"),
    ("prepare.nlu", ["sentiment", "sentiment"], "prepare.nlu: names 'sentiment' twice"),
    ("grid.baselines", ["magic"], "grid.baselines names 'magic', which is none of vanilla_long, skip_decode, "),
    ("grid.baselines", ["base"], "grid.baselines names 'base', which is none of vanilla_long, skip_decode, "),
    ("baselines.magic", {}, "baselines.magic: unknown key (got {})"),
    ("prepare.nlu", ["sentimnet"], "prepare: nlu names 'sentimnet', which is none of entailment, "),
    ("prepare.mt", ["sentiment"], "prepare: mt names 'sentiment', which is none of en-zh, "),
    ("prepare.nlu", ["sst2"], "prepare: source 'embedded' has no task 'sst2'"),
    *((f"ablations.variants.{name}", {"start": "rl", "stages": []}, f"ablations.variants names '{name}', which is")
      for name in ("random", "ours", "rl", "unified", "base", "unified_on_ours")),
    ("ablations.variants.no_mixer.against", "none", "ablations.variants.no_mixer.against is 'none': give ours or"),
    ("baselines.static.block", "all", "baselines.static.block: Input should be 'top' or 'middle'"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[f"{p}={v!r:.20}" for p, v, _ in BAD])
def test_mistakes_name_their_key(path, value, message):
    with pytest.raises(DlskipError) as caught:
        config.validate(changed(path, value))
    said = str(caught.value)
    assert said.startswith(f"params.yaml: {message}")
    assert said.count("\n") == 1 and "\n  mend: " in said


def test_several_mistakes_are_all_named():
    data = changed("rl.price", -1)
    data["model"]["bottleneck"] = 0
    with pytest.raises(DlskipError, match=r"model\.bottleneck: .*; rl\.price: "):
        config.validate(data)


def test_good_values_pass():
    assert config.validate(changed("rl.train.lr", 1e-4)).rl.train.lr == 1e-4


def test_a_variant_changes_only_what_it_lists():
    variant = {"start": "rl", "stages": ["mixer"], "set": {"rl": {"sampling": {"tau": 0.5}}}}
    params = config.validate(changed("ablations.variants.x", variant))
    varied = config.varied(params, params.ablations.variants["x"])
    assert varied.rl.sampling.tau == 0.5
    before, after = params.model_dump(), varied.model_dump()
    before["rl"]["sampling"]["tau"] = 0.5
    assert before == after


def test_parameters_cannot_be_changed():
    params = config.validate(DEFAULT)
    with pytest.raises(ValueError, match="frozen"):
        params.rl.price = 1.0


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    (tmp_path / "p.yaml").write_text("a: 1e-4\nb: 8e-4\nc: no\n")
    assert config.read_yaml(tmp_path / "p.yaml") == {"a": 1e-4, "b": 8e-4, "c": "no"}


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such file"), ("a: [1", "not valid YAML"), ("- 1\n", "must be a mapping"), ("", "must be a mapping"),
     ("a: 1\na: 2\n", "not valid YAML")],
)  # fmt: skip
def test_files_that_are_no_parameters(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DlskipError, match=message) as caught:
        config.load_params(path)
    assert str(path) in str(caught.value)


def test_load_checks_the_asked_backbone():
    path = default.PARAMS
    assert config.load_params(path, backbone="smollm2").recipe == "embedded"
    with pytest.raises(DlskipError, match=r"backbones: no backbone 'x'\n  mend: one of smollm2"):
        config.load_params(path, backbone="x")
