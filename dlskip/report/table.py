"""A table as CSV, as Markdown and as text: numbers with their spread or interval."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from dlskip.report.stats import Estimate

NOT_RUN = "not run"
NOT_REACHED = "not reached"  # it was run, but skips less than the share asked for
DIGITS = {"speed-up": 2, "std of": 2, "millions": 0}  # decimals of a column whose title has these words; else 1


class Spread(NamedTuple):
    """Mean and standard deviation over seeds."""

    value: float
    std: float


@dataclass(frozen=True)
class Table:
    """A table.

    Its rows hold entries: text, a number, ``Spread``, ``Estimate`` (a value or a difference with its interval), NaN =
    not run, None = does not apply.
    """

    name: str  # file name without suffix
    title: str  # what it shows
    note: str  # what a reader must know to read it: units, n, how it is averaged
    columns: list[str]  # their titles say how many decimals are shown (``DIGITS``); CSV keeps six
    rows: list[list[Any]]

    def texts(self) -> list[list[str]]:
        """The entries as people read them."""
        digits = [next((n for words, n in DIGITS.items() if words in column), 1) for column in self.columns]
        return [[_text(entry, n) for entry, n in zip(row, digits, strict=True)] for row in self.rows]

    def frame(self) -> pd.DataFrame:
        """The numbers themselves; spreads and intervals in columns of their own."""
        records = []
        for row in self.rows:
            record: dict[str, Any] = {}
            for column, entry in zip(self.columns, row, strict=True):
                value, *more = entry if isinstance(entry, Spread | Estimate) else (entry,)
                record[column] = value
                if isinstance(value, float):
                    record[column] = NOT_RUN if np.isnan(value) else round(value, 6)
                names = ("std",) if isinstance(entry, Spread) else ("low", "high")
                record |= {f"{column} {name}": number for name, number in zip(names, more, strict=False)}
            records.append(record)
        return pd.DataFrame(records)

    def markdown(self) -> str:
        """A Markdown table with title and note; what the entries hold stays text."""
        columns, *rows = [[_harmless(text) for text in row] for row in (self.columns, *self.texts())]
        body = tabulate(rows, columns, "pipe", disable_numparse=True)
        title, note = (html.escape(text, quote=False) for text in (self.title, self.note))
        return f"**{title}**\n\n{body}\n\n{note}\n"

    def write(self, directory: Path) -> None:
        """Writes ``<name>.csv`` and ``<name>.md``."""
        directory.mkdir(parents=True, exist_ok=True)
        self.frame().to_csv(directory / f"{self.name}.csv", index=False, float_format="%.6f")
        (directory / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")


def _text(entry: Any, digits: int) -> str:
    if entry is None or isinstance(entry, str):
        return "–" if entry is None else entry
    if np.isnan(entry.value if isinstance(entry, Spread | Estimate) else entry):
        return NOT_RUN
    if isinstance(entry, Estimate):
        unclear = entry.is_difference and entry.covers_zero
        return entry.text(digits) + (" not distinguishable" if unclear else "")
    if isinstance(entry, Spread):
        return f"{entry.value:.{digits}f} ± {entry.std:.{digits}f}"
    return f"{entry:.{digits}f}" if isinstance(entry, float) else str(entry)


def _harmless(text: str) -> str:
    """Text for a Markdown table: neither HTML, nor a link, nor the end of its entry."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", r"\|").replace("](", r"]\(")


def spread(values: pd.Series) -> float | Spread:
    """Mean over seeds; with its spread where there is more than one."""
    mean = float(values.mean())
    return Spread(mean, float(values.std())) if len(values) > 1 else mean
