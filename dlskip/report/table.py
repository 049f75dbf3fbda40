"""A table as CSV, as Markdown and as text: numbers with their spread or interval."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tabulate import tabulate

from dlskip.report.stats import Estimate, Level

NOT_RUN = "not run"
NOT_REACHED = "not reached"  # it was run, but skips less than the share asked for


class Spread(NamedTuple):
    """Mean and standard deviation over seeds."""

    value: float
    std: float


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        name: File name without suffix.
        title: What it shows.
        note: What a reader must know to read it: units, n, how it is averaged.
        columns: Column heads.
        rows: Cells: text, a number, ``Spread``, ``Level`` (a value with its interval), ``Estimate`` (a difference with
            its interval), NaN = not run, None = does not apply.
        digits: Decimals shown; CSV keeps six.
    """

    name: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[Any]]
    digits: int = 1

    def texts(self) -> list[list[str]]:
        """The cells as people read them."""
        return [[self._text(cell, column) for cell, column in zip(row, self.columns, strict=True)] for row in self.rows]

    def _text(self, cell: Any, column: str) -> str:
        digits = 2 if column.endswith(("speed-up", "ideal")) else self.digits
        if cell is None:
            return "–"
        if isinstance(cell, str):
            return cell
        if np.isnan(cell.value if isinstance(cell, Spread | Estimate | Level) else cell):
            return NOT_RUN
        if isinstance(cell, Estimate):
            text = f"{signed(cell.value)} [{signed(cell.low)}, {signed(cell.high)}]"
            return f"{text} not distinguishable" if cell.covers_zero else text
        if isinstance(cell, Level):
            return f"{cell.value:.{digits}f} [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
        if isinstance(cell, Spread):
            return f"{cell.value:.{digits}f} ± {cell.std:.{digits}f}"
        return f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)

    def frame(self) -> pd.DataFrame:
        """The numbers themselves; spreads and intervals in columns of their own."""
        records = []
        for row in self.rows:
            record: dict[str, Any] = {}
            for column, cell in zip(self.columns, row, strict=True):
                if isinstance(cell, Spread):
                    record |= {column: cell.value, f"{column} std": cell.std}
                elif isinstance(cell, Estimate | Level):
                    record |= {column: cell.value, f"{column} low": cell.low, f"{column} high": cell.high}
                else:
                    record[column] = cell
                if isinstance(record[column], float):
                    record[column] = NOT_RUN if np.isnan(record[column]) else round(record[column], 6)
            records.append(record)
        return pd.DataFrame(records)

    def markdown(self) -> str:
        """A Markdown table with title and note."""
        rows = [[cell.replace("|", r"\|") for cell in row] for row in self.texts()]
        return f"**{self.title}**\n\n{tabulate(rows, self.columns, 'pipe', disable_numparse=True)}\n\n{self.note}\n"

    def write(self, directory: Path) -> None:
        """Writes ``<name>.csv`` and ``<name>.md``."""
        directory.mkdir(parents=True, exist_ok=True)
        self.frame().to_csv(directory / f"{self.name}.csv", index=False, float_format="%.6f")
        (directory / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")


def signed(value: float) -> str:
    """A difference with its sign: ``+1.2``, ``−0.4``."""
    return f"{value:+.1f}".replace("-", "−")


def spread(values: pd.Series) -> float | Spread:
    """Mean over seeds; with its spread where there is more than one."""
    mean = float(values.mean())
    return Spread(mean, float(values.std())) if len(values) > 1 else mean
