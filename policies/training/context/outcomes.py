"""Outcomes of reading: how well models answered, by model, length, task and way.

Files with `model`, `tokens` (of the documents), `way` (passages or whole), `score` (0 to 1), and
either `task` or the question, whose task is then judged. Knows files, not what is made of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from policies.reading.documents import TASKS
from policies.reading.table import WAYS, Outcome
from policies.training.context.rows import task_of
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.tables import Table, read_table

__all__ = ["Judged", "read_outcomes"]

Judged = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""From questions to how likely each task is, [questions, tasks]."""
NEEDED = ("model", "tokens", "way", "score")


def read_outcomes(files: Sequence[Path], judged: Judged) -> list[Outcome]:
    """The rows of these files, in this order; raises RowsError with the place."""
    return [each for file in files for each in _outcomes(read_table(file), judged)]


def _outcomes(table: Table, judged: Judged) -> list[Outcome]:
    if missing := [name for name in NEEDED if name not in table.columns]:
        raise RowsError.at(table.file, f"has no column {missing[0]}")
    columns = [table.columns[name] for name in NEEDED]
    found = []
    for row, (likely, values) in enumerate(
        zip(_likely(table, judged), zip(*columns, strict=True), strict=True), 1
    ):
        model, tokens, way, score = values
        if way not in WAYS:
            raise RowsError.at(table.file, f"is none of {', '.join(WAYS)}", "way", row)
        found.append(
            Outcome(
                str(model),
                _number(table, "tokens", row, tokens, math.inf),
                likely,
                way,
                _number(table, "score", row, score, 1.0),
            )
        )
    return found


def _number(table: Table, column: str, row: int, value: Any, most: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= most or math.isinf(number):
        wanted = "a number from 0" + (f" to {most:g}" if most < math.inf else " on")
        raise RowsError.at(table.file, f"must be {wanted}", column, row)
    return number


def _likely(table: Table, judged: Judged) -> list[tuple[float, ...]]:
    """How likely each task is, row by row: certain where the row says which it is."""
    tasks = [task_of(value) for value in table.columns.get("task", [None] * table.rows)]
    unknown = [row for row, task in enumerate(tasks) if task is None]
    questions = table.columns.get("question", table.columns.get("prompt"))
    if unknown and questions is None:
        raise RowsError.at(table.file, "names no task and no question", row=unknown[0] + 1)
    likely = [tuple(float(each == task) for each in TASKS) for task in tasks]
    if unknown and questions is not None:
        found = judged([str(questions[row]) for row in unknown])
        for row, each in zip(unknown, found, strict=True):
            likely[row] = tuple(map(float, each))
    return likely
