"""The shapes that outcomes come in, each turned into scores per model.

Known by their columns alone: `score/MODEL` (0 to 1), `correct/MODEL` (yes or no), or, where a file
has neither, `output/MODEL` beside an `answer`, which are compared here (as ZeroEval's are). Columns
beside them are kept: `cost/MODEL` (USD), `chars/MODEL` (an answer's length).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policies.training.outcomes.answers import same_formula, same_literal, stated
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.tables import Table

__all__ = ["Column", "Scored", "numbers", "scored"]

Column = Sequence[float]
"""NaN where there is no value."""
LITERALS = "crux"
"""Tasks whose name begins so ask for literals of Python; all others for mathematics."""
WORDS: Mapping[str, float] = {"true": 1.0, "false": 0.0, "": math.nan}
"""What a CSV writes for yes, no and nothing."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores by model, and of which share of its outputs no result could be read."""

    scores: Mapping[str, Column]
    unread: Mapping[str, float]


def scored(table: Table) -> Scored:
    """The scores in `table`; raises `RowsError` if it has none, or one that is none."""
    scores: dict[str, Column] = {}
    for prefix in ("score", "correct"):
        for model in table.named(prefix):
            if model in scores:
                problem = f"there is a score/{model} too: keep one of them"
                raise RowsError.at(table.file, problem, f"{prefix}/{model}")
            scores[model] = numbers(table, f"{prefix}/{model}", most=1.0)
    if scores:
        return Scored(scores, {})
    models = table.named("output")
    if "chances" in table.columns:
        problem = "is a log of decisions: make rows of it with `tandem rows`"
        raise RowsError.at(table.file, problem)
    if not models or "answer" not in table.columns:
        raise RowsError.at(
            table.file,
            "has no scores: add a column score/MODEL (0 to 1) for each model, or correct/MODEL, or "
            "output/MODEL and answer",
        )
    checked = {model: _checked(table, model) for model in models}
    return Scored(
        {model: scores for model, (scores, _) in checked.items()},
        {model: unread for model, (_, unread) in checked.items()},
    )


def numbers(table: Table, column: str, most: float = math.inf) -> Column:
    """A column of numbers from 0 to `most`, NaN where there are none."""
    values = [
        _number(table, column, row, value) for row, value in enumerate(table.columns[column], 1)
    ]
    for row, value in enumerate(values, 1):
        if not (math.isnan(value) or 0 <= value <= most):
            wanted = "0 or more" if math.isinf(most) else f"0 to {most:g}: divide by the highest"
            raise RowsError.at(table.file, f"{value:g} is not within {wanted}", column, row)
    return values


def _number(table: Table, column: str, row: int, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, (bool, int, float)):
        return float(value)
    if isinstance(value, str):
        word = WORDS.get(value.strip().lower())
        if word is not None:
            return word
        try:
            return float(value)
        except ValueError:
            pass
    raise RowsError.at(table.file, f"{str(value)[:40]!r} is not a number", column, row)


def _checked(table: Table, model: str) -> tuple[Column, float]:
    """1 and 0 for right and wrong outputs, and the share of those that state no result."""
    tasks: Sequence[Any] = table.columns.get("task", [None] * table.rows)
    scores: list[float] = []
    there = unread = 0
    outputs = table.columns[f"output/{model}"]
    for output, right, task in zip(outputs, table.columns["answer"], tasks, strict=True):
        if not isinstance(output, str) or right is None:
            scores.append(math.nan)
            continue
        there += 1
        found = stated(output)
        unread += found is None
        scores.append(float(found is not None and _comparing(task)(found, str(right))))
    return scores, unread / there if there else 0.0


def _comparing(task: Any) -> Callable[[str, str], bool]:
    return same_literal if str(task).startswith(LITERALS) else same_formula
