"""Outcomes of reading: how well models answered, by model, length, task and way.

Files with `model`, `tokens` (of the documents), `way` (passages or whole), `score` (0 to 1), and
either `task` or the question; or logs of decisions. Knows files, not what is made of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policies.reading.documents import TASKS
from policies.reading.table import WAYS
from policies.training.context.own import Answered, Own
from policies.training.context.rows import task_of
from policies.training.context.traffic import read_log
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.tables import Table, read_table
from policies.training.outcomes.traffic import is_log

__all__ = ["read_own"]

NEEDED = ("model", "tokens", "way", "score")


def read_own(files: Sequence[Path]) -> Own:
    """The answers in these files. Raises RowsError with the place, and where there is none.

    Feedback may stand in another log than its decision.
    """
    logs = [file for file in files if is_log(file)]
    own = Own()
    for file in files:
        if file not in logs:
            answers = _answers(read_table(file))
            own += Own(answers, len(answers))
    if logs:
        own += read_log(logs)
    if files and not own.answers:
        why = ", ".join(f"{count} {reason}" for reason, count in own.left_out.items())
        raise RowsError(f"{files[0]}: no decision tells what a reading is worth ({why or 'none'})")
    return own


def _answers(table: Table) -> list[Answered]:
    if missing := [name for name in NEEDED if name not in table.columns]:
        raise RowsError.at(table.file, f"has no column {missing[0]}")
    columns = [table.columns[name] for name in NEEDED]
    tasks = [task_of(value) for value in table.columns.get("task", [None] * table.rows)]
    questions = table.columns.get("question", table.columns.get("prompt"))
    found = []
    for row, (model, tokens, way, score) in enumerate(zip(*columns, strict=True), 1):
        if way not in WAYS:
            raise RowsError.at(table.file, f"is none of {', '.join(WAYS)}", "way", row)
        task = tasks[row - 1]
        if task is None and questions is None:
            raise RowsError.at(table.file, "names no task and no question", row=row)
        found.append(
            Answered(
                str(model),
                _number(table, "tokens", row, tokens, math.inf),
                way,
                _number(table, "score", row, score, 1.0),
                str(questions[row - 1]) if task is None and questions is not None else None,
                tuple(float(each == task) for each in TASKS),
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
