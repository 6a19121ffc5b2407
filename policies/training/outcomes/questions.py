"""Questions: prompts that models are asked, with the exact answer of each where it is known.

Files are read as rows are (`rows`, `tables`): JSON lines, Parquet or CSV, with `prompt` or
`messages`, and if there are any `task`, `id` and `answer`. Must not know who is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Messages, Rows, prompts_of
from policies.training.outcomes.tables import Table, read_table

__all__ = ["Questions", "read_questions"]


@dataclass(frozen=True, slots=True)
class Questions:
    """`rows` of no models, and each row's exact answer, None where nobody knows."""

    rows: Rows
    answers: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def messages(self, row: int) -> Messages:
        """The conversation that is asked."""
        said = self.rows.messages[row] if self.rows.messages is not None else None
        return ({"role": "user", "content": self.rows.prompts[row]},) if said is None else said

    def first(self, most: int | None) -> Questions:
        """The first so many, all for None."""
        if most is None or most >= len(self):
            return self
        return Questions(self.rows.at(range(most)), self.answers[:most])


def read_questions(paths: Sequence[Path]) -> Questions:
    """The questions of these files, in this order; raises `RowsError` with the place."""
    tables = [read_table(path) for path in paths]
    return Questions(prompts_of(tables), tuple(a for table in tables for a in _answers(table)))


def _answers(table: Table) -> list[str | None]:
    column: Sequence[Any] = table.columns.get("answer", [None] * table.rows)
    answers: list[str | None] = []
    for row, value in enumerate(column, 1):
        if value is None or value == "":
            answers.append(None)
        elif isinstance(value, str | int | float):
            answers.append(str(value))
        else:
            raise RowsError.at(table.file, "must be a text or a number", "answer", row)
    return answers
