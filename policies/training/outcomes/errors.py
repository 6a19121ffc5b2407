"""The one error of this folder: which file, where in it, what is wrong, and what to do about it."""

from __future__ import annotations

from pathlib import Path


class RowsError(Exception):
    """The rows cannot be used like this; the message is one line for the person at the terminal."""

    @classmethod
    def at(cls, file: Path, problem: str, column: str = "", row: int | None = None) -> RowsError:
        """An error at a place: `row` counts from 1, without a CSV's heading."""
        places = [f"column {column}"] if column else []
        places += [f"row {row}"] if row is not None else []
        return cls(f"{file}: {', '.join([*places, problem])}")
