"""The hub source: GLUE and instructions through `datasets`, IWSLT from its archive, WMT through sacreBLEU.

Everything is pinned: hub repositories by commit, WMT sets by name (sacreBLEU checks the MD5 of what it downloads).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from dlskip.data.tasks import INSTRUCTIONS, TASKS
from dlskip.errors import DlskipError

Rows = Iterator[tuple[str, dict[str, Any]]]

_GLUE = ("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")
_ALPACA = ("tatsu-lab/alpaca", "dce01c9b08f87459cf36a430d809084718273017")
# The repository holds the organisers' archives beside a loading script, which `datasets` no longer runs.
_IWSLT = ("IWSLT/iwslt2017", "c18a4f81a47ae6fa079fe9d32db288ddde38451d")
_IWSLT_ARCHIVE = "data/2017-01-trnted/texts/de/en/de-en.zip"
_IWSLT_SETS = {
    "train": ("train.tags",),
    "validation": ("IWSLT17.TED.dev2010",),
    "test": tuple(f"IWSLT17.TED.tst{year}" for year in range(2010, 2016)),
}
# No training corpus is that small: earlier test sets are human translations of the same kind of text.
_WMT_SETS = {"train": ("wmt17", "wmt18", "wmt19", "wmt20"), "validation": ("wmt22",), "test": ("wmt23",)}


class Hub:
    """Rows that are downloaded, and cached by the libraries that fetch them."""

    name = "hub"

    def has(self, task: str, split: str) -> bool:
        if task == INSTRUCTIONS:
            return split == "train"
        if TASKS[task].embedded:
            return False
        return TASKS[task].kind == "mt" or split != "test"  # GLUE's test labels are not public

    def origin(self, task: str) -> str:
        if task.startswith("wmt23"):
            return "sacreBLEU: " + ", ".join(f"{split} {'+'.join(sets)}" for split, sets in _WMT_SETS.items())
        identifier, revision = _repository(task)
        return f"hub {identifier}@{revision}"

    def rows(self, task: str, split: str) -> Rows:
        if task.startswith("wmt23"):
            return chain.from_iterable(self._wmt(task, name) for name in _WMT_SETS[split])
        return self._iwslt(split) if task.startswith("iwslt") else self._datasets(task, split)

    def _datasets(self, task: str, split: str) -> Rows:
        import datasets

        identifier, revision = _repository(task)
        configuration = None if task == INSTRUCTIONS else task
        with _fetching(f"hub {identifier} ({task}/{split})"):
            rows = datasets.load_dataset(identifier, configuration, split=split, revision=revision)
        return ((f"hub {identifier} {task}/{split}:{i}", dict(row)) for i, row in enumerate(rows, 1))

    def _iwslt(self, split: str) -> Rows:
        import huggingface_hub

        identifier, revision = _IWSLT
        with _fetching(f"hub {identifier} (iwslt-de-en/{split})"):
            path = huggingface_hub.hf_hub_download(identifier, _IWSLT_ARCHIVE, repo_type="dataset", revision=revision)
        with zipfile.ZipFile(path) as archive:
            members = {Path(name).name: name for name in archive.namelist()}
            for part in _IWSLT_SETS[split]:
                ending = "" if split == "train" else ".xml"
                sides = [_lines(archive, members, f"{part}.de-en.{side}{ending}") for side in ("de", "en")]
                yield from _pairs(f"hub {identifier} {part}", ("de", "en"), *sides)

    def _wmt(self, task: str, name: str) -> Rows:
        import sacrebleu

        source, target = TASKS[task].languages
        pair = f"{source}-{target}"
        with _fetching(f"sacreBLEU {name} {pair}"):
            files = [sacrebleu.get_source_file(name, pair), sacrebleu.get_reference_files(name, pair)[0]]
        # Not `splitlines`, for which U+2028 and others end a line too: they stand inside of sentences.
        sides = [Path(file).read_text(encoding="utf-8").removesuffix("\n").split("\n") for file in files]
        return _pairs(f"sacreBLEU {name} {pair}", (source, target), *sides)


def _repository(task: str) -> tuple[str, str]:
    return _ALPACA if task == INSTRUCTIONS else _IWSLT if task.startswith("iwslt") else _GLUE


class _fetching:  # noqa: N801
    """Turns whatever a downloading library raises (there are many kinds) into one message."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise DlskipError(
                f"cannot fetch it: {reason}", where=self.where,
                mend="check the network, or use prepare.source jsonl with local files",
            ) from error  # fmt: skip


def _lines(archive: zipfile.ZipFile, members: dict[str, str], name: str) -> list[str]:
    """The sentences of an IWSLT file: plain lines between tag lines (training), or <seg> elements (XML)."""
    if name not in members:
        raise DlskipError(f"the archive has no {name}", where=_IWSLT_ARCHIVE)
    lines = archive.read(members[name]).decode("utf-8").split("\n")
    if name.endswith(".xml"):
        return [m[1].strip() for line in lines if (m := re.match(r"\s*<seg[^>]*>(.*)</seg>", line))]
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("<")]


def _pairs(where: str, languages: tuple[str, str], source: Iterable[str], target: Iterable[str]) -> Rows:
    source, target = list(source), list(target)
    if len(source) != len(target):
        raise DlskipError(f"{len(source)} source and {len(target)} target lines", where=where)
    for i, texts in enumerate(zip(source, target, strict=True), 1):
        yield f"{where}:{i}", {"translation": dict(zip(languages, (t.strip() for t in texts), strict=True))}
