"""What every command loads: the model, its tokenizer, and rows to run it on."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from dlskip.checks import reading
from dlskip.data.io import check_row, read_jsonl
from dlskip.errors import DlskipError
from dlskip.files import check_writable
from dlskip.hub.pretrained import from_pretrained


class PromptRow(BaseModel):
    """One line of a data file: a prompt and, where one is known, what should follow it; other keys are ignored."""

    model_config = ConfigDict(strict=True)

    prompt: str = Field(min_length=1)
    target: str | None = None


def load_model(options: Namespace) -> tuple[Any, PreTrainedTokenizerBase]:
    """The skipping model and its backbone's tokenizer, padding on the left; without Transformers' progress bars.

    Raises:
        DlskipError: As ``from_pretrained``.
    """
    logging.disable_progress_bar()
    model: Any = from_pretrained(
        options.model, threshold=options.threshold, price=options.price, budget=options.budget,
        batch_policy=options.batch_policy, kv_fill=options.kv_fill,
        backbone=options.backbone, revision=options.revision, dtype=options.dtype, device=options.device,
        trust_remote_code=options.trust_remote_code, compile=options.compile,
    )  # fmt: skip
    with reading("the base model's tokenizer", model.name_or_path, "put it into the base model's folder"):
        tokenizer = AutoTokenizer.from_pretrained(
            model.name_or_path,
            revision=model.dlskip_release.config.base_revision,
            padding_side="left",
            trust_remote_code=options.trust_remote_code,
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return model, tokenizer


def check_out(folder: Path, option: str, *, new: bool = False) -> None:
    """Whether results can be written into a folder: asked before the work is done.

    Args:
        folder: Where to write.
        option: What names it.
        new: Whether it must hold nothing yet.

    Raises:
        DlskipError: It is a file, lies in one, or may not be written to; or it must be new, and holds something.
    """
    check_writable(folder, option)
    if new and folder.is_dir() and next(folder.iterdir(), None):
        raise DlskipError(f"{folder} is there already, and not empty", where=option, mend="name a new folder")


def read_rows(path: Path, limit: int | None = None) -> list[PromptRow]:
    """Rows of a JSON-lines file with ``prompt`` and, optionally, ``target`` (as in ``data/prepared/``).

    Raises:
        DlskipError: The file is missing, empty, or a row is broken (file, line, field, reason).
    """
    rows: list[PromptRow] = []
    for number, row in read_jsonl(path, mend="give the path of a file with JSON lines"):
        checked = check_row(PromptRow, row, f"{path}:{number}")
        assert isinstance(checked, PromptRow)
        rows.append(checked)
        if len(rows) == limit:
            break
    if not rows:
        raise DlskipError("no rows", where=str(path))
    return rows


def targets(rows: list[PromptRow], path: Path) -> list[str]:
    """What should follow each prompt.

    Raises:
        DlskipError: A row has none.
    """
    found = [row.target for row in rows]
    if None in found:
        raise DlskipError(f"row {found.index(None) + 1} has no `target`", where=str(path), mend="add it to every row")
    return [target for target in found if target is not None]
