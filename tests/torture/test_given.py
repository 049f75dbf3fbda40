"""What users give: parameters, rows, arguments, archives, checkpoints and texts, broken and hostile."""

from __future__ import annotations

import copy
import io
import json
import re
import string
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import dlskip
from dlskip import config
from dlskip.commands import main
from dlskip.config import Params
from dlskip.data.io import read_split
from dlskip.data.prepare import prepare
from dlskip.data.tasks import TASKS
from dlskip.errors import DlskipError
from dlskip.report.table import Table
from dlskip.workflow import results
from tests.helpers import default
from tests.helpers.published import Made
from tests.helpers.sections import DEFAULT
from tests.torture.conftest import Trials
from tests.torture.test_faults import damaged

FAULTS: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e300, 10**30, float("nan"), float("inf"), "", "x", "3", "../..", "é",
    [], [[]], [0, 0], ["x", "x"], {}, {"x": 1}, {"": None}, [None], "\u2028", "a" * 10_000, [10**30], ["ours"], [-1],
]  # fmt: skip


SPLITS = ("train", "validation", "test")


def keys(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and list entry of nested parameters."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from keys(inner, (*path, key))


def numbers(section: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Every field of a section and those below it, with its schema."""
    schema = section.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        for name, field in part.get("properties", {}).items():
            for kind in (field, *field.get("anyOf", []), field.get("items", {}), *field.get("prefixItems", [])):
                yield f"{part['title']}.{name}", kind


def test_every_number_has_two_ends() -> None:
    open_ended = {
        name for name, kind in numbers(Params) if kind.get("type") in ("integer", "number") and "enum" not in kind
        and not ({"minimum", "exclusiveMinimum"} & kind.keys() and {"maximum", "exclusiveMaximum"} & kind.keys())
    }  # fmt: skip
    assert open_ended == set()


def as_given(accepted: Any, value: Any) -> bool:
    """Whether a parameter is what was given: the number, the text, the list; no 1 for true, and no 3 for "3"."""
    if isinstance(value, list):
        return len(accepted) == len(value) and all(map(as_given, accepted, value))
    return isinstance(accepted, bool) == isinstance(value, bool) and bool(accepted == value)


def test_parameters(tmp_path: Path) -> None:
    """A fault in any key is accepted as what it is, or refused in one message that names the key or what it breaks."""
    given = config.read_yaml(default.PARAMS)
    places, path = list(keys(given)), tmp_path / "params.yaml"
    tries = Trials("parameters", 0.03, 50)
    for rng in tries:
        data, place, value = copy.deepcopy(given), rng.choice(places), rng.choice(FAULTS)
        if rng.random() < 0.1:
            path.write_bytes(damaged(rng, default.PARAMS.read_bytes()))
            one_key, call = False, partial(config.load_params, path)
        else:
            inner = data
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            one_key, call = True, partial(config.validate, data)
        try:
            accepted = call().model_dump()
            for key in place if one_key else ():
                accepted = accepted[key]
            tries.hold(not one_key or as_given(accepted, value), f"{place} = {value!r:.50} became {accepted!r:.50}")
        except DlskipError as error:
            tries.hold(len(str(error).splitlines()) <= 2 or "YAML" in str(error), f"{place} = {value!r:.50}: {error}")
        except Exception as error:
            tries.hold(False, f"{place} = {value!r:.50}: {error!r:.300}")
    assert not tries.failed()


def test_rows(tmp_path: Path) -> None:
    """Of every kind of task: refused with file and line, or used."""
    names = {"nlu": ["rte", "mrpc", "cola", "sst2", "qnli", "qqp"], "mt": ["iwslt-de-en", "wmt23-en-de", "wmt23-en-zh"]}
    tries = Trials("rows", 0.03, 25)
    for rng in tries:
        kind = rng.choice(sorted(names))
        task = rng.choice(names[kind])
        nlu, mt = ([task], []) if kind == "nlu" else ([], [task])
        asked = {"source": "jsonl", "path": str(tmp_path), "nlu": nlu, "mt": mt, "train": 24, "constructions": None}
        params = config.Prepare.model_validate(DEFAULT.prepare.model_dump() | asked)

        def row(i: int, task: str = task) -> dict[str, Any]:
            if TASKS[task].kind == "mt":
                return {"translation": {x: f"{x} text {i}" for x in TASKS[task].languages}}
            return {field: f"{field} text {i}" for field in TASKS[task].fields} | {"label": i % 2}

        for split in SPLITS:
            lines = [json.dumps(row(i + 100 * len(split)), ensure_ascii=False).encode() for i in range(12)]
            (tmp_path / task).mkdir(exist_ok=True)
            (tmp_path / task / f"{split}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        (tmp_path / "alpaca").mkdir(exist_ok=True)
        (tmp_path / "alpaca/train.jsonl").write_text(
            "".join(json.dumps({"instruction": f"say {i}", "input": "", "output": "x"}) + "\n" for i in range(9))
        )
        broken = tmp_path / task / f"{rng.choice(SPLITS)}.jsonl"
        lines = broken.read_bytes().split(b"\n")
        at = rng.randrange(len(lines) - 1)
        if rng.random() < 0.5:
            lines[at] = damaged(rng, lines[at])
        else:
            value = json.loads(lines[at])
            inner = value.get("translation", value)
            inner[rng.choice(sorted(inner))] = rng.choice(FAULTS)
            lines[at] = json.dumps(value).encode()
        broken.write_bytes(b"\n".join(lines))
        try:
            prepare(params, tmp_path / "out")
            used = [row for split in SPLITS for row in read_split(tmp_path / "out", task, split)]
            sound = all(row.prompt.strip() and row.target.strip() and row.label in (None, 0, 1) for row in used)
            tries.hold(used and sound, f"{broken.name}: {lines[at]!r:.80} was used")
        except DlskipError as error:
            last = at + 1 + lines[at].count(b"\n")  # what is broken may be several lines
            named = any(f"{broken}:{line}: " in str(error) for line in range(at + 1, last + 1))
            named = named or "no rows are left" in str(error)
            tries.hold(named and len(str(error).splitlines()) <= 2, f"{broken.name}: {lines[at]!r:.80}: {error}")
        except Exception as error:
            tries.hold(False, f"{broken.name}: {lines[at]!r:.80}: {error!r:.300}")
    assert not tries.failed()


def test_archives(tmp_path: Path) -> None:
    """Nothing is written outside of the folder, and nothing inside that is no result."""
    tries = Trials("archives of results", 0.01, 25)
    names = ["../x", "/tmp/x", "evaluations/../../x/rows.csv", "a\0b", "evaluations/o/s-0/nlu/x.py", "params.yaml",
             "evaluations/o/s-0/nlu/rows.csv", "data/manifest.json", "artifacts//o/../s/rows.csv"]  # fmt: skip
    kinds = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    for rng in tries:
        archive, out = tmp_path / "runs.tar.xz", tmp_path / "deep" / str(tries.tried)
        with tarfile.open(archive, rng.choice(("w:xz", "w:xz", "w:gz", "w"))) as tar:
            for _ in range(rng.randint(1, 3)):
                entry = tarfile.TarInfo(rng.choice(names))
                entry.type, entry.linkname, entry.size = rng.choice(kinds), "../../outside", 4
                tar.addfile(entry, io.BytesIO(b"a,b\n"))
        if rng.random() < 0.5:
            archive.write_bytes(damaged(rng, archive.read_bytes()))
        out.mkdir(parents=True)
        try:
            results.unpack(archive, out)
        except DlskipError:
            pass
        except Exception as error:
            tries.hold(False, f"{error!r:.300}")
        written = {p.name for p in out.rglob("*") if not p.is_dir()} | {p.name for p in tmp_path.glob("*")}
        tries.hold(written <= {"rows.csv", "manifest.json", "runs.tar.xz", "deep"}, sorted(written))
    assert not tries.failed()


def test_checkpoints(saved: Path) -> None:
    """`from_pretrained` refuses in one message what is damaged, or loads it; it runs nothing that lies in there."""
    whole = {path: path.read_bytes() for path in [*saved.rglob("*"), *saved.parent.rglob("models/tiny/*")]
             if path.is_file()}  # fmt: skip
    tries = Trials("checkpoints of others", 0.04, 3)
    for rng in tries:
        for path, content in whole.items():
            path.write_bytes(content)
        path = rng.choice(sorted(whole))
        if path.suffix == ".json" and rng.random() < 0.7:
            value = json.loads(whole[path])
            value[rng.choice(sorted(value))] = rng.choice(FAULTS)
            path.write_text(json.dumps(value))
        else:
            path.write_bytes(damaged(rng, whole[path]))
        said = ""
        try:
            dlskip.from_pretrained(saved)
        except DlskipError as error:
            said = str(error)
        except Exception as error:
            tries.hold(False, f"{path.name}: {error!r:.400}")
        tries.hold(len(said.splitlines()) <= 2, f"{path.name}: {said}")
    assert not tries.failed()


def test_arguments(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A command ends well, or in one message and a non-zero exit."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")  # an empty path is the folder of the call
    (tmp_path / "rows.jsonl").write_text('{"prompt": "the man", "target": "a"}\n{"prompt": "a dog", "target": "b"}\n')
    (tmp_path / "taken").write_text("x")
    model, rows = str(made.artifact), str(tmp_path / "rows.jsonl")
    commands = [
        ["generate", model, "--prompt", "the man", "--max-new-tokens", "2"],
        ["evaluate", model, "--data", rows, "--max-new-tokens", "2", "--thresholds", "0.5"],
        ["calibrate", model, "--data", rows, "--max-new-tokens", "2", "--layers-run", "0.9"],
        ["export", model, str(tmp_path / "new"), "--data", rows, "--max-new-tokens", "2"],
        ["release", model, str(tmp_path / "published")],
        ["speculate", model, "--data", rows, "--max-new-tokens", "2", "--out", str(tmp_path / "bench")],
    ]
    options = ["--dtype", "--device", "--threshold", "--seed", "--temperature", "--top-p", "--rows",
               "--batch", "--price", "--budget", "--backbone", "--kv-fill", "--data", "--save", "--out"]  # fmt: skip
    values = ["", "banana", "-1", "nan", "1e999", "0", "9" * 30, str(tmp_path / "taken"), str(tmp_path / "taken" / "x"),
              str(tmp_path), "/dev/null", "a" * 5000, "artifacts/our/x", "cuda:9"]  # fmt: skip
    tries = Trials("arguments of commands", 0.04, 4)
    for rng in tries:
        given = list(rng.choice(commands))
        if rng.random() < 0.5:
            given[rng.randrange(1, len(given))] = rng.choice(values)
        else:
            given += [rng.choice(options), rng.choice(values)]
        try:
            main(given)
        except SystemExit as stopped:
            said = str(stopped.code) + capsys.readouterr().err
            tries.hold(stopped.code not in (0, None) and "error" in said, f"{given}: {said[-300:]}")
        except Exception as error:
            tries.hold(False, f"{given}: {error!r:.400}")
    assert not tries.failed()


def test_texts_in_tables() -> None:
    """Nothing in a table's entry is HTML, a link, or the end of the entry."""
    parts = ["<script>", "<img src=x onerror=", "](javascript:", "|", "\n", "\u2028", "&lt;", "`", "<!--", "]]>", "\\"]
    tries = Trials("hostile texts in Markdown tables", 0.01, 100)
    for rng in tries:
        text = "".join(rng.choice([*parts, *string.ascii_letters]) for _ in range(rng.randint(1, 12)))
        table = Table("t", "title", "note", ["first", text], [[text, "1"], ["2", text]]).markdown()
        rows = table[table.index("| first") :].split("\n")[:4]
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
        tries.hold("<" not in table and "](" not in table and bars == {3}, f"{text!r}: {table}")
    assert not tries.failed()
