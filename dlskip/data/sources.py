"""Where rows come from: the embedded suite, a directory of JSON lines, or the hub. One interface for all three.

``rows(task, split)`` yields raw rows in the data set's own columns: the task's fields and ``label`` for NLU (GLUE's
numbers), ``{"translation": {...}}`` for translation, ``instruction``/``input``/``output`` for instructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from dlskip.config import Prepare
from dlskip.data import embedded
from dlskip.data.io import read_jsonl
from dlskip.data.tasks import TASKS
from dlskip.errors import DlskipError

INSTRUCTIONS = "instructions"
SPLITS = ("train", "validation", "test")


class Source(Protocol):
    """Yields (where the row stands, raw row); the rows of ``validation`` may be carved out of ``train`` later."""

    name: str

    def rows(self, task: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]: ...

    def has(self, task: str, split: str) -> bool: ...


class Embedded:
    """The suite that the project generates; ``limits`` says how many rows of each split are drawn."""

    name = "embedded"

    def __init__(self, seed: int, limits: dict[tuple[str, str], int]) -> None:
        self.seed, self.limits = seed, limits

    def has(self, task: str, split: str) -> bool:
        return task == INSTRUCTIONS or TASKS[task].embedded

    def rows(self, task: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        stream = islice(embedded.rows(task, split, self.seed), self.limits[task, split])
        return ((f"embedded {task}/{split}:{i}", row) for i, row in enumerate(stream, 1))


class Jsonl:
    """A directory with one folder per data set and one file per split; instructions are ``alpaca/train.jsonl``."""

    name = "jsonl"

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise DlskipError("no such directory", where=f"prepare.path: {directory}", mend="set it to your data")
        self.directory = directory

    def _path(self, task: str, split: str) -> Path:
        return self.directory / ("alpaca" if task == INSTRUCTIONS else task) / f"{split}.jsonl"

    def has(self, task: str, split: str) -> bool:
        return self._path(task, split).is_file()

    def rows(self, task: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        path = self._path(task, split)
        return ((f"{path}:{number}", row) for number, row in read_jsonl(path))


# task -> (hub id, configuration, revision). GLUE has no public test labels: its validation set is the test set.
HUB = {
    **{task: ("nyu-mll/glue", task, "main") for task in ("rte", "mrpc", "cola", "sst2", "qnli", "qqp")},
    "iwslt-de-en": ("IWSLT/iwslt2017", "iwslt2017-de-en", "main"),
    INSTRUCTIONS: ("tatsu-lab/alpaca", None, "main"),
}
# task -> (training sets, validation set, test set) as sacreBLEU names them
WMT = {
    "wmt23-en-zh": (("wmt17", "wmt18", "wmt19", "wmt20"), "wmt22", "wmt23"),
    "wmt23-en-de": (("wmt17", "wmt18", "wmt19", "wmt20"), "wmt22", "wmt23"),
}


class Hub:
    """The data sets library for GLUE, IWSLT and instructions; sacreBLEU's copies of the WMT test sets."""

    name = "hub"

    def has(self, task: str, split: str) -> bool:
        if task in WMT or task == "iwslt-de-en":
            return True
        return split != "test" if task != INSTRUCTIONS else split == "train"

    def rows(self, task: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return self._wmt(task, split) if task in WMT else self._datasets(task, split)

    def _datasets(self, task: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        import datasets

        identifier, configuration, revision = HUB[task]
        try:
            rows = datasets.load_dataset(identifier, configuration, split=split, revision=revision)
        except Exception as error:  # the library raises many kinds for "not reachable"
            raise DlskipError(
                f"cannot load the data set: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                where=f"hub {identifier} ({task}/{split})",
                mend="check the network, or use prepare.source jsonl with local files",
            ) from error
        return ((f"hub {identifier} {task}/{split}:{i}", dict(row)) for i, row in enumerate(rows, 1))

    def _wmt(self, task: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        import sacrebleu

        train, validation, test = WMT[task]
        source, target = TASKS[task].languages
        names = {"train": train, "validation": (validation,), "test": (test,)}[split]
        for name in names:
            try:
                files = sacrebleu.get_source_file(name, f"{source}-{target}"), *sacrebleu.get_reference_files(
                    name, f"{source}-{target}"
                )
            except Exception as error:
                raise DlskipError(
                    f"sacreBLEU cannot fetch it: {error}", where=f"{name} {source}-{target}", mend="check the network"
                ) from error
            with open(files[0], encoding="utf-8") as sources, open(files[1], encoding="utf-8") as references:
                for i, (s, r) in enumerate(zip(sources, references, strict=True), 1):
                    yield f"{name} {source}-{target}:{i}", {"translation": {source: s.strip(), target: r.strip()}}


def open_source(params: Prepare, limits: dict[tuple[str, str], int]) -> Source:
    """The source that the parameters name."""
    if params.source == "embedded":
        return Embedded(params.seed, limits)
    if params.source == "jsonl":
        assert params.path is not None
        return Jsonl(Path(params.path))
    return Hub()
