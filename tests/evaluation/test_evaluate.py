"""An evaluation: rows are batched as it likes where they decide for themselves, and their results stay their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tqdm.auto import tqdm

from dlskip import config
from dlskip.config import Params
from dlskip.data.io import Example, write_split
from dlskip.evaluation.deployed import Deployed
from dlskip.evaluation.evaluate import Evaluator
from dlskip.evaluation.records import Records
from dlskip.methods.learned import Learned
from dlskip.methods.settings import FULL, KNOBS, PlannedSetting, Setting, from_columns, thresholds
from dlskip.methods.vanilla import Vanilla
from dlskip.models.tiny import tiny_tokenizer
from tests.helpers.devices import DEVICES

WORDS = [[7, 3, 9], [1], [4, 4, 2, 8, 6, 1, 5], [2, 5], [9, 9, 9, 1]]  # prompts of unlike lengths, in no order
SETTINGS = [PlannedSetting(setting=s, weights="", adapters=True) for s in (FULL, *thresholds([0.5, 0.45]))]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Five rows of a task of each kind, evaluated in batches of one, eight, and three rows that decide alone."""
    for task, target, label in (("acceptability", " acceptable", 1), ("de-en", " a cat", None)):
        prompts = (" ".join(map(str, words)) for words in WORDS)
        rows = [Example(f"{task}-{i}", task, prompt, target, label) for i, prompt in enumerate(prompts)]
        write_split(tmp_path / task / "test.jsonl", rows)
        write_split(tmp_path / task / "validation.jsonl", [replace(row, prompt="5 " + row.prompt) for row in rows * 2])
    monkeypatch.setattr("dlskip.evaluation.evaluate.DATA", tmp_path)
    params = config.load_params()
    changes = {"batches": [1, 8, "per_sample"], "per_sample_batch": 3, "max_new_tokens": 5}
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update=changes)})


def setting(row: dict[str, Any]) -> Setting:
    return from_columns(*(row[knob] for knob in KNOBS))


def evaluated(params: Params, skipping: Any, device: str = "cpu") -> Records:
    model, skipper = skipping("llama")
    model.to(device)
    records = Records("tiny", 0, "test", traces=1)
    runner = Evaluator(params, Learned(), ["acceptability", "de-en"], records, seed=0)
    with tqdm(total=runner.steps(SETTINGS), disable=True) as bar:
        runner.run(Deployed(model, skipper, tiny_tokenizer()), SETTINGS, bar)
        assert bar.total == len({(r["method"], setting(r), r["batch"], r["split"], r["task"]) for r in records.rows})
    return records


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_is_predicted_as_if_alone(device: str, params: Params, skipping: Any) -> None:
    """In left-padded batches of rows of a length, whose order is not that of the test rows."""
    found = [p for p in evaluated(params, skipping, device).predictions if p["method"] == "ours"]
    rules = {rule: [p | {"batch": ""} for p in found if p["batch"] == rule] for rule in ("1", "8", "per_sample")}
    assert rules["per_sample"] == rules["1"] and [p["id"][-1] for p in rules["1"][:5]] == list("01234")
    skipped = {p["skipped"] for p in rules["1"]}
    assert len(skipped) > 3, "the controllers are of one mind: nothing was tried"
    whole = {rule: [p for p in of if setting(p) == FULL] for rule, of in rules.items()}
    assert whole["8"] == whole["1"] and all("1" not in p["skipped"] for p in whole["1"])


def test_chance_has_its_own_rows_at_the_measured_rate(params: Params, skipping: Any) -> None:
    rows = evaluated(params, skipping).rows
    shares = {(r["method"], r["batch"], setting(r), r["task"]): r["skip_ratio"] for r in rows if r["split"] == "test"}
    chance = {key: share for key, share in shares.items() if key[0] == "random"}
    assert {key[1:3] for key in chance} == {("per_sample", s) for s in thresholds([0.5, 0.45])}
    assert all(abs(share - shares["ours", *key[1:]]) < 0.3 for key, share in chance.items())


def test_layers_are_counted_for_the_prompt_and_for_decoding(params: Params, skipping: Any) -> None:
    """The mean over layers of a phase's rates is the share that was counted in that phase."""
    records = evaluated(params, skipping)
    keys = ("method", *KNOBS, "batch")
    rates: dict[tuple[Any, ...], list[float]] = {}
    for row in records.layers:
        rates.setdefault((*(row[k] for k in keys), row["task"], row["phase"]), []).append(row["skip_rate"])
    assert {key[-1] for key in rates} == {"prompt", "decode"}
    decoded = {
        (*(r[k] for k in keys), r["task"]): r["value"]
        for r in records.rows
        if r["metric"] == "skip_decode" and r["split"] == "test"
    }
    for key, share in decoded.items():
        assert sum(found := rates.get((*key, "decode"), [0.0])) / len(found) == pytest.approx(share, abs=1e-5)
    for key in decoded:
        own = [p for p in records.predictions if (*(p[k] for k in keys), p["task"]) == key]
        skipped = sum(p["skipped"].count("1") for p in own) / (len(own) * len(own[0]["skipped"]))
        assert sum(rates[*key, "prompt"]) / len(rates[*key, "prompt"]) == pytest.approx(skipped, abs=1e-5)


def test_learned_settings_are_run_on_validation_rows_too(params: Params, skipping: Any) -> None:
    """Each row for itself, without a control, on no more rows than are reported; only the reported answers are kept."""
    records = evaluated(params, skipping)
    rows = [r for r in records.rows if r["split"] == "validation"]
    assert {(r["method"], r["batch"], r["n"]) for r in rows} == {("ours", "per_sample", 5)}
    assert {setting(r) for r in rows} == {p.setting for p in SETTINGS}
    reported = {(r["method"], setting(r), r["batch"], r["task"]) for r in records.rows if r["split"] == "test"}
    kept = [(p["method"], setting(p), p["batch"], p["task"]) for p in records.predictions]
    assert set(kept) == reported and len(kept) == 5 * len(reported)
    baseline = Evaluator(params, Vanilla(), ["de-en"], records, seed=0)
    assert list(baseline.rules) == ["test"]


def test_translations_are_searched_with_beams_and_answers_are_not(params: Params, skipping: Any) -> None:
    changes = {"batches": [1, "per_sample"], "beams": 3}
    beams = evaluated(params.model_copy(update={"evaluate": params.evaluate.model_copy(update=changes)}), skipping)
    greedy = evaluated(params, skipping)

    def said(records: Records, task: str) -> list[tuple[Any, ...]]:
        kept = [p for p in records.predictions if p["method"] == "ours" and p["batch"] == "1" and p["task"] == task]
        return [(setting(p), p["id"], p["prediction"], p["skipped"]) for p in kept]

    assert said(beams, "acceptability") == said(greedy, "acceptability")
    assert said(beams, "de-en") != said(greedy, "de-en")
    assert [(one[:2], one[3]) for one in said(beams, "de-en")] == [
        (one[:2], one[3]) for one in said(greedy, "de-en")
    ], "the prompt decides once, and alike in every beam"
    alone = [p for p in beams.predictions if p["task"] == "de-en" and p["method"] == "ours"]
    assert [p | {"batch": ""} for p in alone if p["batch"] == "1"] == [
        p | {"batch": ""} for p in alone if p["batch"] == "per_sample"
    ]
