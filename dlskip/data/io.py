"""Reading and writing the prepared splits, one JSON object per line, every row checked on the way in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dlskip import files
from dlskip.errors import DlskipError

DATA = Path("data/prepared")  # where the pipeline keeps the prepared splits
_MEND = "dvc repro prepare"


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: str = Field(min_length=1)
    task: str = Field(min_length=1)
    prompt: str = Field(min_length=1)
    target: str = Field(min_length=1)
    label: int | None = Field(None, ge=0)


@dataclass(frozen=True)
class Example:
    """One prepared example: the text the model reads and the text it should answer with.

    ``label`` is the NLU label number, None for translations and instructions.
    """

    id: str
    task: str
    prompt: str
    target: str
    label: int | None = None


def read_jsonl(
    path: Path, mend: str = "check prepare.path and the task's folder name"
) -> Iterator[tuple[int, dict[str, Any]]]:  # fmt: skip
    """Yields (line number from 1, object) of a JSON-lines file in UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        mend: What to do if there is none.

    Raises:
        DlskipError: The file is missing, or a line is not a JSON object.
    """
    if not path.is_file():
        raise DlskipError("is a folder" if path.is_dir() else "no such file", where=str(path), mend=mend)
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if not is_text(line):
                raise DlskipError("not UTF-8", where=f"{path}:{number}", mend="save the file as UTF-8")
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DlskipError(
                    f"not JSON: {error}", where=f"{path}:{number}", mend="fix or delete the line"
                ) from error
            if not isinstance(row, dict):
                raise DlskipError("not a JSON object", where=f"{path}:{number}", mend="fix or delete the line")
            yield number, row


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: bytes that are none are read as half a character each.

    Examples:
        >>> is_text("Größe"), is_text(b"Gr\\xf6\\xdfe".decode("utf-8", "surrogateescape"))
        (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_row(schema: type[BaseModel], row: dict[str, Any], where: str) -> BaseModel:
    """Validates one row against a schema.

    Raises:
        DlskipError: Names file, line, field and the reason.
    """
    try:
        return schema.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DlskipError(
            f"field {field!r}: {first['msg']} (got {str(first['input'])[:60]!r})", where=where,
            mend="fix or delete the line",
        ) from error  # fmt: skip


def write_split(path: Path, examples: Iterable[Example]) -> None:
    """Writes examples as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")


def read_split(directory: Path, task: str, split: str) -> list[Example]:
    """Reads ``directory/<task>/<split>.jsonl``.

    Raises:
        DlskipError: The file is missing, empty, or a row is broken (file, line, field, reason).
    """
    path = directory / task / f"{split}.jsonl"
    examples = []
    for number, row in read_jsonl(path):
        example = Example(**check_row(_Row, row, f"{path}:{number}").model_dump())
        if example.task != task:
            raise DlskipError(f"field 'task': is {example.task!r}, not {task!r}", where=f"{path}:{number}", mend=_MEND)
        examples.append(example)
    if not examples:
        raise DlskipError("no rows", where=str(path), mend=_MEND)
    return examples


def read_tasks(directory: Path, tasks: list[str], split: str) -> list[Example]:
    """The rows of several tasks together, in a fixed order."""
    return [example for task in tasks for example in read_split(directory, task, split)]


def prepared_sha256(directory: Path) -> str:
    """The hash of all prepared rows, which must be that in the manifest beside them, where there is one.

    Raises:
        DlskipError: The rows are not those that prepare wrote.
    """
    found, manifest = data_sha256(directory), directory.parent / "manifest.json"
    if manifest.is_file() and files.read_json(manifest, _MEND).get("data_sha256") != found:
        raise DlskipError(f"not the rows that prepare wrote, says {manifest}", where=str(directory), mend=_MEND)
    return found


def data_sha256(directory: Path) -> str:
    """One hash over all prepared rows."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*.jsonl")):
        digest.update(path.relative_to(directory).as_posix().encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
