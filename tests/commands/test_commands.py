"""The command line, on a tiny pipeline artifact: what it prints, writes, and says about mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dlskip
from dlskip.calibration import answers
from dlskip.commands import COMMANDS, main
from dlskip.skip import Threshold, skipper_of
from tests.helpers.published import publish


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, skipping: Any) -> str:
    return str(publish(tmp_path_factory.mktemp("published"), skipping).artifact)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"prompt": f"the man saw {word} in the house", "target": word} for word in ("a dog", "it", "no", "good")]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return str(stopped.value.code) + capsys.readouterr().err


def test_help_names_every_command_and_each_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    for name in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main([name, "--help"])
        said = capsys.readouterr().out
        assert ("--batch-policy" in said) == (COMMANDS[name].takes == "model")


def test_generate_streams_the_model_s_text_and_tells_the_layers(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", model, "--prompt", "the man", "--max-new-tokens", "6", "--layers"])
    out, err = capsys.readouterr()
    assert out.startswith("the man") and "skipped" in err
    drawn = [line.split()[1] for line in out.splitlines() if set(line.split()[1:2] and line.split()[1]) <= {"█", "·"}]
    assert len({len(runs) for runs in drawn}) == 1 and len(drawn[0]) == 6
    assert all(runs[0] == runs[-1] == "█" for runs in drawn)


def test_try_shows_the_layers_of_every_token_beside_full_depth(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["try", model, "--prompt", "the man", "--max-new-tokens", "5", "--repeats", "1", "--threshold", "0.4"])
    out = capsys.readouterr().out
    drawn = [line for line in out.splitlines() if line.endswith(" of 6")]
    assert len(drawn) == 5 and "exceeds 0.4," in out
    assert all(line.count("█") == int(line.split()[-3]) for line in drawn)
    loaded, full = dlskip.from_pretrained(model, threshold=0.4), dlskip.from_pretrained(model, threshold=1.0)
    tokenizer = AutoTokenizer.from_pretrained(loaded.name_or_path)
    for name, each in (("with skipping", loaded), ("at full depth", full)):
        ids = each.generate(**tokenizer("the man", return_tensors="pt"), max_new_tokens=5, do_sample=False)  # type: ignore[operator]
        assert f"{name}: {tokenizer.decode(ids[0, -5:], skip_special_tokens=True).strip()}\n" in out
    assert out.count(" ms, at full depth ") == 2


def test_what_is_released_is_loaded(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "about.md").write_text("Nothing but *noise*.")
    given = ["--dtype", "bfloat16", "--threshold", "0.3", "--about", str(tmp_path / "about.md")]
    main(["release", model, str(tmp_path / "published"), *given])
    assert "written: " in capsys.readouterr().out
    assert skipper_of(dlskip.from_pretrained(tmp_path / "published")).policy.threshold == 0.3  # type: ignore[attr-defined]
    assert "Nothing but *noise*." in (tmp_path / "published" / "README.md").read_text()


def test_lossless_text_is_full_depth_s(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["generate", model, "--prompt", "is it true?", "--max-new-tokens", "8"]
    main([*common, "--full-depth"])
    full = capsys.readouterr().out.strip()
    main([*common, "--lossless"])
    out, err = capsys.readouterr()
    assert out.strip() == full and "accepted" in err


@pytest.mark.slow
def test_bench_writes_its_report(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--batches", "1", "2", "--shares", "0.5", "--tokens", "2", "--repeats", "1"]
    main(["bench", model, "--out", str(tmp_path / "bench"), *quick])
    assert "wrapping alone costs" in capsys.readouterr().out
    document = json.loads((tmp_path / "bench" / "bench.json").read_text())
    assert {row["batch"] for row in document["rows"]} == {1, 2}


def test_calibrate_stores_what_it_found(
    model: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ["calibrate", model, "--data", rows, "--max-new-tokens", "4", "--thresholds", "1", "0.5", "0.1"]
    main([*found, "--layers-run", "0.9", "--agreement", "--save", str(tmp_path / "dialled")])
    assert "layers run" in capsys.readouterr().out
    config = json.loads((tmp_path / "dialled" / "dlskip_config.json").read_text())
    calibration = config["calibration"]
    assert calibration["layers_run"] <= 0.9 and calibration["n"] == 4 and calibration["target"] == "layers_run"
    assert config["threshold"] == calibration["threshold"]
    loaded = dlskip.from_pretrained(tmp_path / "dialled")
    assert skipper_of(loaded).policy.threshold == config["threshold"]  # type: ignore[attr-defined]


def test_evaluate_tells_quality_and_layers(model: str, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", model, "--data", rows, "--thresholds", "1", "0.4", "--max-new-tokens", "3"])
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len(lines) == 5  # head, rule, full depth, two thresholds
    full, same = (line.split("|")[2:] for line in (lines[2], lines[3]))
    assert full == same  # threshold 1 skips nothing


def test_an_exported_model_is_plain_and_smaller(
    model: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", model, str(tmp_path / "plain"), "--data", rows, "--used", "0.9", "--max-new-tokens", "3"])
    assert "remain" in capsys.readouterr().out
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert 2 <= small.config.num_hidden_layers < 6
    assert small(input_ids=torch.tensor([[3, 4, 5]])).logits.isfinite().all()


def test_lossless_decoding_is_compared_with_full_depth(
    model: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--rows", "3", "--max-new-tokens", "6", "--draft-tokens", "2", "--out", str(tmp_path / "bench")]
    main(["speculate", model, "--data", rows, *quick])
    assert "speed-up" in capsys.readouterr().out
    document = json.loads((tmp_path / "bench" / "lossless.json").read_text())
    assert document["about"]["checkpoint"] == model and document["about"]["drafted at most"] == 2
    assert [one["identical"] for one in document["prompts"]] == [True] * 3
    assert all(one["tokens"] <= 6 and one["accepted"] <= one["drafted"] for one in document["prompts"])
    table = (tmp_path / "bench" / "lossless.md").read_text()
    assert table.count("\n| ") == 3 and "nan" not in table  # the head, the file, all


def test_a_price_is_calibrated_where_the_controllers_know_one(
    rows: str, tmp_path: Path, skipping: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    priced = str(publish(tmp_path, skipping, prices=(0.3, 2.0)).artifact)
    common = ["calibrate", priced, "--data", rows, "--max-new-tokens", "2", "--layers-run", "0.99", "--agreement"]
    main([*common, "--prices", "0.4", "1.5"])
    out = capsys.readouterr().out
    assert out.startswith(("price 0.4,", "price 1.5,"))
    assert "--thresholds: these controllers are conditioned on the price" in failing(
        capsys, *common, "--thresholds", "0.5"
    )
    assert "--prices: 9.0 lies outside" in failing(capsys, *common, "--prices", "9")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["calibrate", "MODEL", "--data", "ROWS", "--layers-run", "0.5", "--prices", "1"],
            "--prices: these controllers",
        ),
        (["calibrate", "MODEL", "--data", "ROWS", "--layers-run", "70"], "--layers-run: must lie between 0 and 1"),
        (["generate", "MODEL", "--prompt", "a", "--price", "-1"], "--price: must be a number above 0, not '-1'"),
        (["generate", "MODEL", "--prompt", ""], "--prompt: nothing to continue"),
        (["generate", "MODEL", "--prompt", "a", "--lossless", "--full-depth"], "leave one of them out"),
        (["generate", "MODEL", "--prompt", "a", "--threshold", "2"], "threshold"),
        (["bench", "MODEL", "--shares", "30"], "--shares: must lie between 0 and 1, not '30'"),
        (["bench", "MODEL", "--repeats", "0"], "--repeats: must be a whole number of 1 or more"),
        (["generate", "MODEL", "--prompt", "a", "--sample", "--temperature", "0"], "--temperature: must be above 0"),
        (["calibrate", "MODEL", "--data", "nowhere.jsonl", "--layers-run", "0.5"], "nowhere.jsonl: no such file"),
        (["evaluate", "MODEL"], "--data"),
        (["speculate", "MODEL", "--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["export", "MODEL", "out", "--data", "ROWS", "--used", "2"], "--used"),
        (["release", "nowhere", "out", "--about", "nothing.md"], "nothing.md: no such file"),
        (["generate", "MODEL", "--prompt", "a", "--dtype", "banana"], "unknown dtype 'banana'"),
        (["generate", "MODEL", "--prompt", "a", "--device", "gpu"], "no device 'gpu'"),
        (["generate", "MODEL", "--prompt", "a", "--sample", "--temperature", "nan"], "--temperature: must be above 0"),
        (["generate", "MODEL", "--prompt", "a", "--sample", "--temperature", "inf"], "--temperature: must be above 0"),
        (["generate", "MODEL", "--prompt", "a", "--seed", "9" * 20], "--seed: must be below"),
        (["generate", "MODEL", "--prompt", "a\udce9"], "--prompt: not UTF-8"),
        (["generate", "MODELx", "--prompt", "a"], "no such folder"),
        (["bench", "MODEL", "--exit-at=-1"], "--exit-at: must be a whole number"),
        (["bench", "MODEL", "--exit-at", "6"], "--exit-at: the model has 6 layers"),
        (["bench", "MODEL", "--out", "ROWS"], "is a file"),
        (["speculate", "MODEL", "--data", "ROWS", "--out", "ROWS"], "is a file"),
        (["export", "MODEL", "ROWS", "--data", "ROWS"], "is a file"),
        (["release", "MODEL", "ROWS"], "is a file"),
        (["calibrate", "MODEL", "--data", "ROWS", "--layers-run", "0.5", "--save", "ROWS"], "is a file"),
        (["evaluate", "MODEL", "--data", "nowhere.jsonl"], "give the path of a file"),
        (["dance"], "dance"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], said: str, model: str, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    there = {"MODEL": model, "MODELx": f"{model}x", "ROWS": rows}
    assert said in failing(capsys, *(there.get(a, a) for a in arguments))


def test_a_row_without_a_target_cannot_be_evaluated(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "target": "b"}\n{"prompt": "c"}\n')
    assert "row 2 has no `target`" in failing(capsys, "evaluate", model, "--data", str(path))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"prompt": "caf\xe9", "target": "a"}'.encode("latin-1"), "rows.jsonl:1: not UTF-8"),
        (b"[" * 100_000, "rows.jsonl:1: not JSON"),
        (b'{"prompt": "\\ud800", "target": "a"}', "rows.jsonl:1: field 'prompt'"),
    ],
    ids=["latin-1", "deep", "half"],
)
def test_bytes_that_are_no_rows_are_named(
    written: bytes, said: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(written)
    assert said in failing(capsys, "evaluate", model, "--data", str(tmp_path / "rows.jsonl"))


def test_a_byte_order_mark_and_a_tokenizer_without_an_end_are_no_obstacle(
    rows: str, tmp_path: Path, skipping: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = publish(tmp_path, skipping)
    tokenizer = AutoTokenizer.from_pretrained(made.base)
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(made.base)
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + Path(rows).read_bytes())
    given = [str(made.artifact), "--data", str(tmp_path / "rows.jsonl"), "--max-new-tokens", "1", "--thresholds", "1"]
    main(["evaluate", *given])
    assert "4 rows of" in capsys.readouterr().out
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (made.base / name).unlink()
    assert "cannot read the base model's tokenizer" in failing(capsys, "evaluate", *given)


@pytest.mark.parametrize("command", ["generate", "lossless", "evaluate", "calibrate", "speculate", "bench"])
def test_what_is_too_long_for_the_model_is_said_before_it_runs(
    command: str, tmp_path: Path, skipping: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(publish(tmp_path, skipping, "gpt2").artifact)
    long = "the man " * 400
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "target": "a"}) + "\n" for p in ("a", "b", long))
    )
    data = ["--data", str(tmp_path / "rows.jsonl")]
    given = {
        "generate": ["generate", model, "--prompt", long],
        "lossless": ["generate", model, "--prompt", long, "--lossless"],
        "evaluate": ["evaluate", model, *data], "calibrate": ["calibrate", model, *data, "--layers-run", "0.9"],
        "speculate": ["speculate", model, *data], "bench": ["bench", model, *data],
    }[command]  # fmt: skip
    assert "the model has 512 positions" in failing(capsys, *given)
    assert "512 positions" in failing(capsys, "generate", model, "--prompt", "a", "--max-new-tokens", "600")


def test_all_end_tokens_of_the_model_end_an_answer(tmp_path: Path, skipping: Any) -> None:
    made = publish(tmp_path, skipping)
    tokenizer = AutoTokenizer.from_pretrained(made.base)

    def answered() -> list[int]:
        model: Any = dlskip.from_pretrained(made.artifact)
        [found] = answers(model, tokenizer, ["the man"], Threshold(0.5), max_new_tokens=8)
        return found.tokens

    new = answered()
    config = json.loads((made.base / "generation_config.json").read_text())
    (made.base / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [1, new[2]]}))
    assert answered() == new[: new.index(new[2])]


@pytest.mark.slow
def test_bench_leaves_out_what_transformers_cannot_do(
    tmp_path: Path, skipping: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(publish(tmp_path, skipping, "opt").artifact)
    quick = ["--batches", "1", "--shares", "0.5", "--tokens", "2", "--repeats", "1"]
    main(["bench", model, "--out", str(tmp_path / "bench"), *quick])
    assert "cannot exit OPTForCausalLM early" in capsys.readouterr().err
