"""Rows: prompts, and what each model's answer to them was worth.

One file gives its own columns; several are put below each other, their models side by side, and
what one file does not know of another's models stays unknown. Two spellings of one model are one.
A row's task is its file's `task` column. Without one the name of the file is the task where several
files are read, and there are no tasks where only one is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.shapes import Column, Scored, numbers, scored
from policies.training.outcomes.tables import Table, read_table, spelled_alike, united

__all__ = ["Floats", "Messages", "Rows", "prompts_of", "read_rows", "rows_of"]

Floats: TypeAlias = npt.NDArray[np.float64]
Messages: TypeAlias = tuple[Mapping[str, Any], ...]
"""A conversation, in OpenAI's terms."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Outcomes of `models` on `prompts`; every array is [rows, models], NaN where nobody knows.

    `scores` are 0 to 1, `costs` in USD per request, `lengths` the answers' in characters. A row
    with `messages` was a conversation, whose last user message is its prompt. `unread` says of a
    model, where answers were scored here, which share of them named no result that could be read;
    these count as wrong.
    """

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    scores: Floats
    tasks: tuple[str, ...] | None = None
    ids: tuple[str, ...] = ()
    costs: Floats | None = None
    lengths: Floats | None = None
    outputs: tuple[tuple[str | None, ...], ...] | None = None
    messages: tuple[Messages | None, ...] | None = None
    unread: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def __len__(self) -> int:
        return len(self.prompts)

    def of(self, models: Sequence[str]) -> Rows:
        """The same rows with only these models, in this order; raises `RowsError` for others.

        A model may be spelled otherwise (`spelled_alike`); it is then called as it is named here.
        """
        known = {spelled_alike(name): at for at, name in enumerate(self.models)}
        if strange := [name for name in models if spelled_alike(name) not in known]:
            held = ", ".join(self.models)
            raise RowsError(f"the rows hold no model {strange[0]}: they hold {held}")
        if not models:
            raise RowsError("name at least one model of the rows")
        at = [known[spelled_alike(name)] for name in models]
        outputs = self.outputs
        chosen = replace(
            self,
            models=tuple(self.models[n] for n in at),
            scores=self.scores[:, at],
            costs=None if self.costs is None else self.costs[:, at],
            lengths=None if self.lengths is None else self.lengths[:, at],
            outputs=None if outputs is None else tuple(tuple(r[n] for n in at) for r in outputs),
        )
        return chosen.called(models)

    def called(self, names: Sequence[str]) -> Rows:
        """The same rows, their models called so, in this order."""
        new = dict(zip(self.models, names, strict=True))
        unread = {new[model]: share for model, share in self.unread.items() if model in new}
        return replace(self, models=tuple(names), unread=MappingProxyType(unread))

    def at(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> Rows:
        """These rows, in this order; a row may come more than once."""
        chosen = [int(row) for row in rows]
        tasks, ids, outputs, said = self.tasks, self.ids, self.outputs, self.messages
        return replace(
            self,
            prompts=tuple(self.prompts[row] for row in chosen),
            scores=self.scores[chosen],
            tasks=None if tasks is None else tuple(tasks[row] for row in chosen),
            ids=tuple(ids[row] for row in chosen) if ids else (),
            costs=None if self.costs is None else self.costs[chosen],
            lengths=None if self.lengths is None else self.lengths[chosen],
            outputs=None if outputs is None else tuple(outputs[row] for row in chosen),
            messages=None if said is None else tuple(said[row] for row in chosen),
        )

    def complete(self) -> Rows:
        """Only the rows on which every model's score is known."""
        known = ~np.isnan(self.scores).any(axis=1)
        return self if known.all() else self.at(np.flatnonzero(known))

    def columns(self) -> Mapping[str, Sequence[Any]]:
        """As a file holds them; unknown numbers are None."""
        columns: dict[str, Sequence[Any]] = {}
        if self.ids:
            columns["id"] = self.ids
        if self.tasks is not None:
            columns["task"] = self.tasks
        columns["prompt"] = self.prompts
        if self.messages is not None:
            columns["messages"] = [
                None if said is None else orjson.dumps(said).decode() for said in self.messages
            ]
        kinds = (("score", self.scores), ("cost", self.costs), ("chars", self.lengths))
        for prefix, values in kinds:
            for place, model in enumerate(self.models if values is not None else ()):
                assert values is not None
                column = values[:, place].tolist()
                columns[f"{prefix}/{model}"] = [None if v != v else v for v in column]  # noqa: PLR0124  # NaN
        for place, model in enumerate(self.models if self.outputs is not None else ()):
            assert self.outputs is not None
            columns[f"output/{model}"] = [row[place] for row in self.outputs]
        return columns


# ---------------------------------------------------------------------------------------- reading


def read_rows(paths: Sequence[Path]) -> Rows:
    """The rows of these files, in this order; raises `RowsError` with the place of what is wrong.

    Parquet, JSON lines or CSV, in any shape that `shapes` knows. Columns: `prompt` (or `messages`,
    a JSON chat), scores, and if there are any `task`, `id`, `cost/MODEL`, `chars/MODEL`,
    `output/MODEL`.
    """
    return rows_of([read_table(path) for path in paths])


def read_prompts(paths: Sequence[Path]) -> Rows:
    """As `read_rows`, of no models: for prompts whose scores are unknown, or of no interest."""
    return prompts_of([read_table(path) for path in paths])


def prompts_of(tables: Sequence[Table]) -> Rows:
    """The rows of these tables without what they say of models; raises `RowsError`."""
    kept = [
        Table(table.file, {n: v for n, v in table.columns.items() if "/" not in n})
        for table in tables
    ]
    return _rows(kept, [Scored({}, {}) for _ in kept])


def rows_of(tables: Sequence[Table]) -> Rows:
    """The rows of these tables; raises `RowsError`."""
    if not tables:
        raise RowsError("name at least one file of rows")
    tables = united(tables)
    return _rows(tables, [scored(table) for table in tables])


def _rows(tables: Sequence[Table], found: Sequence[Scored]) -> Rows:
    models = tuple(dict.fromkeys(model for one in found for model in one.scores))
    prompts: list[str] = []
    messages: list[Messages | None] = []
    for table in tables:
        said = _messages(table)
        messages += said
        prompts += _prompts(table, said)
    return Rows(
        prompts=tuple(prompts),
        models=models,
        scores=_stacked([one.scores for one in found], models, tables),
        tasks=_tasks(tables),
        ids=tuple(name for table in tables for name in _ids(table)),
        costs=_beside(tables, "cost", models),
        lengths=_beside(tables, "chars", models),
        outputs=_outputs(tables, models),
        messages=tuple(messages) if any(said is not None for said in messages) else None,
        unread=_unread(found, tables),
    )


def _prompts(table: Table, messages: Sequence[Messages | None]) -> list[str]:
    column = table.columns.get("prompt")
    if column is None and "messages" not in table.columns:
        raise RowsError.at(table.file, "has no column prompt, and no messages either")
    prompts: list[str] = []
    for row, said in enumerate(messages):
        value = None if column is None else column[row]
        if value is None and said is not None:
            value = asked(said)
        if not isinstance(value, str):
            raise RowsError.at(table.file, "there is no text", "prompt", row + 1)
        prompts.append(value)
    return prompts


def asked(messages: Messages) -> str:
    """The text of the last user message, "" if there is none."""
    for message in reversed(messages):
        if message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, list):
            parts = (part.get("text") for part in content if isinstance(part, dict))
            return "\n".join(text for text in parts if isinstance(text, str))
        return content if isinstance(content, str) else ""
    return ""


def _messages(table: Table) -> list[Messages | None]:
    column = table.columns.get("messages")
    if column is None:
        return [None] * table.rows
    return [_conversation(table, row, value) for row, value in enumerate(column, 1)]


def _conversation(table: Table, row: int, value: Any) -> Messages | None:
    if value is None or value == "":
        return None
    try:
        read = orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError as error:
        raise RowsError.at(table.file, f"is not JSON: {error}", "messages", row) from None
    if not isinstance(read, list) or not all(isinstance(message, dict) for message in read):
        raise RowsError.at(table.file, "must be a list of chat messages", "messages", row)
    return tuple(read)


def _tasks(tables: Sequence[Table]) -> tuple[str, ...] | None:
    if len(tables) == 1 and "task" not in tables[0].columns:
        return None
    tasks: list[str] = []
    for table in tables:
        stem = table.file.stem
        column = table.columns.get("task", [None] * table.rows)
        tasks += [stem if task in (None, "") else str(task) for task in column]
    return tuple(tasks)


def _ids(table: Table) -> list[str]:
    column = table.columns.get("id", [None] * table.rows)
    stem = table.file.stem
    return [f"{stem}/{row}" if name is None else str(name) for row, name in enumerate(column, 1)]


def _stacked(
    columns: Sequence[Mapping[str, Column]], models: Sequence[str], tables: Sequence[Table]
) -> Floats:
    """[rows, models], NaN where a file has no column of a model."""
    parts = []
    for table, by_model in zip(tables, columns, strict=True):
        part = np.full((table.rows, len(models)), np.nan)
        for at, model in enumerate(models):
            if model in by_model:
                part[:, at] = by_model[model]
        parts.append(part)
    return np.concatenate(parts)


def _beside(tables: Sequence[Table], prefix: str, models: Sequence[str]) -> Floats | None:
    """Columns of numbers beside the scores, None if no file has any."""
    found = [
        {model: numbers(table, f"{prefix}/{model}") for model in table.named(prefix)}
        for table in tables
    ]
    return _stacked(found, models, tables) if any(found) else None


def _outputs(
    tables: Sequence[Table], models: Sequence[str]
) -> tuple[tuple[str | None, ...], ...] | None:
    if not any(table.named("output") for table in tables):
        return None
    rows: list[tuple[str | None, ...]] = []
    for table in tables:
        nothing: Sequence[str | None] = [None] * table.rows
        columns = [table.columns.get(f"output/{model}", nothing) for model in models]
        rows += zip(*columns, strict=True)
    return tuple(rows)


def _unread(found: Sequence[Scored], tables: Sequence[Table]) -> Mapping[str, float]:
    """Shares over all files that were scored here, by model."""
    sums: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for one, table in zip(found, tables, strict=True):
        for model, share in one.unread.items():
            sums[model] = sums.get(model, 0.0) + share * table.rows
            sizes[model] = sizes.get(model, 0) + table.rows
    return MappingProxyType({model: whole / sizes[model] for model, whole in sums.items()})
