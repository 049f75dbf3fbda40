"""Sources and prepare: local files, the hub (replaced by local data), broken rows, overlap, the manifest."""

from __future__ import annotations

import json
import sys
import types
import zipfile
from pathlib import Path

import pytest

from dlskip.config import Prepare
from dlskip.data import hub
from dlskip.data.io import Example, data_sha256, read_split, write_split
from dlskip.data.prepare import prepare
from dlskip.errors import DlskipError


def write(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def params(**changes) -> Prepare:
    base = {
        "source": "jsonl", "nlu": ["sst2"], "mt": [], "constructions": None, "train": 20, "validation": 4, "test": 6,
        "test_mt": 2, "instructions": 5, "max_chars": 200, "path": "raw", "seed": 0, "prompts": "short",
        "train_mt": None,
    }  # fmt: skip
    return Prepare(**(base | changes))


def sst2(count: int, word: str = "film") -> list[dict]:
    return [{"sentence": f"{word} number {i} is fine ", "label": i % 2, "idx": i} for i in range(count)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    write(tmp_path / "raw/sst2/train.jsonl", sst2(40))
    write(tmp_path / "raw/sst2/validation.jsonl", sst2(10, "play"))
    rows = [{"instruction": f"Say {i}.", "input": "", "output": str(i) if i else ""} for i in range(8)]
    write(tmp_path / "raw/alpaca/train.jsonl", rows)
    pairs = [{"translation": {"de": f"Satz {i}.", "en": f"Sentence {i}."}} for i in range(30)]
    for split, part in {"train": pairs[:20], "validation": pairs[20:25], "test": pairs[25:]}.items():
        write(tmp_path / f"raw/iwslt-de-en/{split}.jsonl", part)
    return tmp_path / "raw"


def manifest(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def test_validation_is_carved_from_train_and_glues_validation_is_the_test_set(raw: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare(params(path=str(raw), mt=["iwslt-de-en"]), out)
    splits = manifest(out)["splits"]
    assert {s: splits[f"sst2/{s}"]["source_split"] for s in ("train", "validation", "test")} == {
        "train": "train", "validation": "train", "test": "validation",
    }  # fmt: skip
    rows = {s: read_split(out, "sst2", s) for s in ("train", "validation", "test")}
    assert {s: len(r) for s, r in rows.items()} == {"train": 20, "validation": 4, "test": 6}
    assert not {e.prompt for e in rows["train"]} & {e.prompt for e in rows["validation"]}
    assert all("play" in e.prompt for e in rows["test"])
    assert splits["instructions/train"]["notes"] == {"empty target, left out": 1}
    assert splits["iwslt-de-en/test"]["source_split"] == "test"
    assert manifest(out)["data_sets"]["iwslt-de-en"]["licence"].startswith("TED")
    assert splits["sst2/train"]["sha256"] and splits["sst2/train"]["labels"].keys() == {"negative", "positive"}


def test_same_seed_same_bytes(raw: Path, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(params(path=str(raw), seed=seed), tmp_path / name)
    assert data_sha256(tmp_path / "a") == data_sha256(tmp_path / "b") != data_sha256(tmp_path / "c")
    prepare(params(path=str(raw), seed=1), tmp_path / "a")  # over an earlier preparation
    assert data_sha256(tmp_path / "a") == data_sha256(tmp_path / "c") == manifest(tmp_path / "a")["data_sha256"]


def test_training_rows_that_stand_in_the_test_set_are_removed(raw: Path, tmp_path: Path):
    leaked = [{"sentence": "Play number 3 -- is fine!", "label": 1}, {"sentence": "PLAY number 9 is fine.", "label": 0}]
    write(raw / "sst2/train.jsonl", [*sst2(10), *leaked, *sst2(2)])
    prepare(params(path=str(raw)), tmp_path / "out")
    report = json.loads((tmp_path / "out/overlap.json").read_text())["sst2"]
    assert report == {
        "train_and_validation": 0,
        "train_and_test": 0,
        "removed_for_validation": 0,
        "removed_for_test": 2,
    }
    train = manifest(tmp_path / "out")["splits"]["sst2/train"]
    assert train["notes"] == {"also in test, removed": 2, "duplicate, left out": 2}
    assert len(train["removed_examples"]["test"]) == 2
    assert not any("lay" in e.prompt for e in read_split(tmp_path / "out", "sst2", "train"))


def test_odd_characters_are_cleaned_or_kept_and_counted(raw: Path, tmp_path: Path):
    odd = [{"sentence": "a\x01b", "label": 0}, {"sentence": "cafÃ©", "label": 1}, {"sentence": "x" * 300, "label": 1}]
    write(raw / "sst2/validation.jsonl", odd)
    prepare(params(path=str(raw)), tmp_path / "out")
    notes = manifest(tmp_path / "out")["splits"]["sst2/test"]["notes"]
    assert notes == {
        "longer than max_chars, left out": 1, "texts with control characters, replaced": 1,
        "texts with mojibake, kept": 1,
    }  # fmt: skip
    assert sorted(e.prompt.split("\n")[0] for e in read_split(tmp_path / "out", "sst2", "test")) == ["a b", "cafÃ©"]


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"sentence": "fine", "label": 2}, "label", "less than 2"),
        ({"sentence": "fine", "label": -1}, "label", "greater than or equal to 0"),
        ({"sentence": "fine", "label": "1"}, "label", "valid integer"),
        ({"sentence": "  ", "label": 1}, "sentence", "at least 1 character"),
        ({"sentence": None, "label": 1}, "sentence", "valid string"),
        ({"label": 1}, "sentence", "required"),
        ("{broken", "", "not JSON"),
        ("[1]", "", "not a JSON object"),
    ],
)
def test_a_broken_row_names_file_line_field_and_reason(raw: Path, tmp_path: Path, row, field, reason):
    write(raw / "sst2/train.jsonl", [*sst2(2), row, *sst2(2)])
    with pytest.raises(DlskipError) as caught:
        prepare(params(path=str(raw)), tmp_path / "out")
    assert f"{raw}/sst2/train.jsonl:3" in str(caught.value)
    assert field in str(caught.value) and reason in str(caught.value)


def test_a_broken_translation_names_the_language(raw: Path, tmp_path: Path):
    write(raw / "iwslt-de-en/test.jsonl", [{"translation": {"de": "Satz."}}])
    with pytest.raises(DlskipError, match=r"test\.jsonl:1.*translation\.en"):
        prepare(params(path=str(raw), nlu=[], mt=["iwslt-de-en"]), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nlu": ["rte"]}, "no such file"),
        ({"max_chars": 16}, "no rows are left"),
        ({"path": "/nowhere/at/all"}, "no such directory"),
    ],
)
def test_mistakes_are_named(raw: Path, tmp_path: Path, changes, message):
    with pytest.raises(DlskipError, match=message):
        prepare(params(**({"path": str(raw)} | changes)), tmp_path / "out")


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"id": "x", "task": "sst2", "prompt": "p", "target": " t", "label": -1}, "label"),
        ({"id": "x", "task": "sst2", "prompt": "", "target": " t", "label": 0}, "prompt"),
        ({"id": "x", "task": "sst2", "prompt": "p", "target": " t", "label": 0, "more": 1}, "more"),
        ({"id": "x", "task": "sst2", "prompt": "p"}, "target"),
        ({"id": "x", "task": "cola", "prompt": "p", "target": " t", "label": 0}, "task"),
    ],
)
def test_prepared_rows_are_checked_too(tmp_path: Path, record, field):
    write_split(tmp_path / "sst2/test.jsonl", [Example("a", "sst2", "p", " t", 0)])
    with (tmp_path / "sst2/test.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(DlskipError, match=rf"test\.jsonl:2.*{field}"):
        read_split(tmp_path, "sst2", "test")


def iwslt_archive(path: Path) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for side, word in (("de", "Satz"), ("en", "Sentence")):
            lines = "".join(f"{word} {i}.\n" for i in range(12))
            archive.writestr(f"de-en/train.tags.de-en.{side}", f"<url>http://x</url>\n<title>t</title>\n{lines}")
            for n, part in enumerate(["dev2010", *(f"tst{y}" for y in range(2010, 2016))], 1):
                segments = "".join(f'<seg id="{i}"> {word} {n}-{i}. </seg>\n' for i in range(3))
                xml = f"<?xml?>\n<mteval><doc>\n<title>no</title>\n{segments}</doc></mteval>\n"
                archive.writestr(f"de-en/IWSLT17.TED.{part}.de-en.{side}.xml", xml)
    return str(path)


@pytest.fixture
def offline_hub(monkeypatch, tmp_path: Path) -> list:
    """The three libraries that the hub source asks, answering from local data; returns what was asked."""
    asked: list = []

    def load_dataset(identifier, configuration, *, split, revision):
        asked.append((identifier, configuration, split, revision))
        if identifier == "tatsu-lab/alpaca":
            return [{"instruction": f"Say {i}.", "input": "", "output": str(i), "text": ""} for i in range(6)]
        return sst2(40) if split == "train" else sst2(10, "play")

    def get_file(side):
        def get(name, pair):
            asked.append((name, pair))
            path = tmp_path / f"{name}.{pair}.{side}"
            path.write_text("".join(f"{name} {side} {i}\n" for i in range(4)), encoding="utf-8")
            return str(path)

        return get

    archive = iwslt_archive(tmp_path / "de-en.zip")
    fake = {
        "datasets": {"load_dataset": load_dataset},
        "huggingface_hub": {"hf_hub_download": lambda *a, **k: asked.append((a, k)) or archive},
        "sacrebleu": {
            "get_source_file": get_file("src"), "get_reference_files": lambda n, p: [get_file("ref")(n, p)],
        },
    }  # fmt: skip
    for name, functions in fake.items():
        module = types.ModuleType(name)
        for key, function in functions.items():
            setattr(module, key, function)
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_hub_rows_go_the_same_way(offline_hub: list, tmp_path: Path):
    settings = params(source="hub", mt=["iwslt-de-en", "wmt23-en-zh"], train_mt=10, validation=3, test_mt=5)
    prepare(settings, tmp_path / "out")
    assert {e.task for e in read_split(tmp_path / "out", "sst2", "train")} == {"sst2"}
    assert len(read_split(tmp_path / "out", "iwslt-de-en", "train")) == 10
    test = read_split(tmp_path / "out", "iwslt-de-en", "test")
    assert len(test) == 5 and all(e.target.startswith(" Sentence") for e in test)
    chinese = read_split(tmp_path / "out", "wmt23-en-zh", "test")
    assert {e.target for e in chinese} <= {f" wmt23 ref {i}" for i in range(4)}
    glue = [call for call in offline_hub if call[0] == "nyu-mll/glue"]
    assert {call[2] for call in glue} == {"train", "validation"}  # never the unlabelled test split
    origins = {task: notes["origin"] for task, notes in manifest(tmp_path / "out")["data_sets"].items()}
    assert "@" in origins["sst2"] and "wmt22" in origins["wmt23-en-zh"]


def test_hub_revisions_are_commits(offline_hub: list, tmp_path: Path):
    prepare(params(source="hub", mt=["iwslt-de-en"]), tmp_path / "out")
    revisions = [call[3] for call in offline_hub if len(call) == 4]
    revisions += [call[1]["revision"] for call in offline_hub if isinstance(call[-1], dict)]
    assert revisions and all(len(r) == 40 and int(r, 16) for r in revisions)


@pytest.mark.usefixtures("offline_hub")
def test_an_unreachable_hub_is_one_message(tmp_path: Path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", fail)
    with pytest.raises(DlskipError, match="no route") as caught:
        prepare(params(source="hub"), tmp_path / "out")
    assert "prepare.source jsonl" in str(caught.value)


def test_sides_of_different_length_stop():
    with pytest.raises(DlskipError, match="2 source and 1 target"):
        list(hub._pairs("set", ("de", "en"), ["a", "b"], ["a"]))


@pytest.mark.parametrize("label", [-1, None, "absent"])
def test_a_test_split_without_labels_counts_as_none(raw: Path, tmp_path: Path, label):
    """As GLUE's is, exported split by split."""
    rows = [{"sentence": f"nobody knows {i}"} | ({} if label == "absent" else {"label": label}) for i in range(9)]
    write(raw / "sst2/test.jsonl", rows)
    prepare(params(path=str(raw)), tmp_path / "out")
    splits = manifest(tmp_path / "out")["splits"]
    assert splits["sst2/test"]["source_split"] == "validation"
    assert all("play" in e.prompt for e in read_split(tmp_path / "out", "sst2", "test"))
    write(raw / "sst2/test.jsonl", [*rows, {"sentence": "one is known", "label": 1}])
    with pytest.raises(DlskipError, match=r"test.jsonl:1.*label"):
        prepare(params(path=str(raw)), tmp_path / "out")


def test_a_test_split_that_is_no_file_is_named(raw: Path, tmp_path: Path):
    (raw / "sst2/test.jsonl").mkdir()
    with pytest.raises(DlskipError, match=r"test.jsonl: is no file"):
        prepare(params(path=str(raw)), tmp_path / "out")
    (raw / "sst2/test.jsonl").rmdir()
    (raw / "sst2/test.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(DlskipError, match=r"test.jsonl: is no file"):
        prepare(params(path=str(raw)), tmp_path / "out")


def test_a_label_that_is_a_word_names_the_numbers(raw: Path, tmp_path: Path):
    write(raw / "sst2/train.jsonl", [{"sentence": "fine", "label": "positive"}])
    with pytest.raises(DlskipError, match=r"train.jsonl:1.*'positive'.*\n.*0 = negative, 1 = positive"):
        prepare(params(path=str(raw)), tmp_path / "out")


@pytest.mark.parametrize("written", ["utf-16", "latin-1"])
def test_rows_that_are_not_utf_8_are_named(raw: Path, tmp_path: Path, written):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in sst2(3, "café"))
    (raw / "sst2/train.jsonl").write_bytes(lines.encode(written))
    with pytest.raises(DlskipError, match=r"train.jsonl:1: not UTF-8"):
        prepare(params(path=str(raw)), tmp_path / "out")


@pytest.mark.parametrize("end", ["\u2028", "\x0b", "\x85", "\x1c"])
@pytest.mark.usefixtures("offline_hub")
def test_only_line_feeds_end_a_line_of_wmt(tmp_path: Path, monkeypatch, end):
    """One such character on each side, in other sentences, would pair the wrong ones."""
    texts = {"src": f"one{end}more\ntwo\nthree\n", "ref": f"eins\nzwei\ndrei{end}mehr\n"}
    for side, text in texts.items():
        (tmp_path / side).write_text(text, encoding="utf-8", newline="")
    library = sys.modules["sacrebleu"]
    monkeypatch.setattr(library, "get_source_file", lambda *_: str(tmp_path / "src"))
    monkeypatch.setattr(library, "get_reference_files", lambda *_: [str(tmp_path / "ref")])
    pairs = [row["translation"] for _, row in hub.Hub()._wmt("wmt23-en-de", "wmt23")]
    assert [pair["de"].split(end)[0] for pair in pairs] == ["eins", "zwei", "drei"]
    assert [pair["en"].split(end)[0] for pair in pairs] == ["one", "two", "three"]
