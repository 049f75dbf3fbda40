"""The one error type that reaches a user: what is wrong, where, and how to mend it."""

from __future__ import annotations


class DlskipError(Exception):
    """A mistake the user can mend: a bad parameter, a broken row, a missing model.

    Args:
        message: What is wrong, in one sentence.
        where: The file, line, key or argument at fault.
        mend: What to do about it.
    """

    def __init__(self, message: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.message, self.where, self.mend = message, where, mend
        text = f"{where}: {message}" if where else message
        super().__init__(f"{text}\n  mend: {mend}" if mend else text)
