"""Rows of questions about documents: what is asked, which task that is, and of which document.

Parquet, JSON lines or CSV with `question` or `prompt`; `task`, `id`, and `file` (a name below the
folder of documents) or `document` (the text itself) where there are any. Knows files and names of
tasks, not what is learned from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from policies.reading.documents import TASKS, Document, Task, digest
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.tables import Table, read_table

__all__ = ["SPELLED", "Asked", "read_asked", "task_of", "with_documents"]

SPELLED: Mapping[str, Task] = MappingProxyType(
    {
        **{task: task for task in TASKS},
        "comparison": "comp",
        "compare": "comp",
        "hallucination": "hallu",
        "unanswerable": "hallu",
    }
)
"""What tasks are called in rows."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions, row by row. `tasks` and `sources` hold None where nothing is said.

    A source is the name of a document's file, or stands for the text that a row brings; `documents`
    holds what was found, by source.
    """

    ids: tuple[str, ...]
    questions: tuple[str, ...]
    tasks: tuple[Task | None, ...]
    sources: tuple[str | None, ...]
    documents: Mapping[str, Document]

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def groups(self) -> tuple[str, ...]:
        """Rows of one group belong together: those of one document, or of one question."""
        pairs = zip(self.sources, self.questions, strict=True)
        return tuple(question if source is None else source for source, question in pairs)

    @property
    def read(self) -> bool:
        """Whether the document of every row is there."""
        return all(source in self.documents for source in self.sources)

    def labels(self) -> npt.NDArray[np.int64]:
        """The place of each row's task in `TASKS`; raises RowsError where one says none."""
        if None in self.tasks:
            row = self.tasks.index(None) + 1
            raise RowsError(f"row {row} has no task: say which in a column task")
        return np.array([TASKS.index(task) for task in self.tasks if task is not None])

    def at(self, rows: Sequence[int]) -> Asked:
        """These rows, in this order."""
        return Asked(
            tuple(self.ids[row] for row in rows),
            tuple(self.questions[row] for row in rows),
            tuple(self.tasks[row] for row in rows),
            tuple(self.sources[row] for row in rows),
            self.documents,
        )


def read_asked(files: Sequence[Path]) -> Asked:
    """The questions of these files, in this order; raises RowsError with the place."""
    parts = [_asked(read_table(file)) for file in files]
    documents = {name: each for part in parts for name, each in part.documents.items()}
    return Asked(
        tuple(each for part in parts for each in part.ids),
        tuple(each for part in parts for each in part.questions),
        tuple(each for part in parts for each in part.tasks),
        tuple(each for part in parts for each in part.sources),
        documents,
    )


def with_documents(asked: Asked, folder: Path) -> Asked:
    """The same, the files that rows name read from anywhere below `folder`. Raises RowsError."""
    if not folder.is_dir():
        raise RowsError(f"{folder}: is no folder of documents")
    found = {path.name: path for path in sorted(folder.rglob("*")) if path.is_file()}
    documents = dict(asked.documents)
    for row, source in enumerate(asked.sources, 1):
        if source is None:
            raise RowsError(f"row {row} names no file: a column file says which")
        if source not in documents:
            path = found.get(source)
            if path is None:
                raise RowsError(f"row {row}: there is no {source} below {folder}")
            documents[source] = Document(source, "", path.read_text("utf-8", "replace"))
    return Asked(asked.ids, asked.questions, asked.tasks, asked.sources, documents)


def task_of(name: object) -> Task | None:
    """The task of this name, whatever its case; None for none that is known."""
    return SPELLED.get(str(name).strip().lower())


def _asked(table: Table) -> Asked:
    columns = table.columns
    questions = columns.get("question", columns.get("prompt"))
    if questions is None:
        raise RowsError.at(table.file, "has neither a column question nor prompt")
    for row, question in enumerate(questions, 1):
        if not isinstance(question, str) or not question.strip():
            raise RowsError.at(table.file, "must be a text", "question", row)
    nothing: Sequence[Any] = [None] * table.rows
    named = enumerate(columns.get("id", nothing), 1)
    sources, documents = _sources(table)
    return Asked(
        tuple(f"{table.file.stem}/{row}" if name is None else str(name) for row, name in named),
        tuple(questions),
        tuple(_tasks(table, columns.get("task", nothing))),
        sources,
        documents,
    )


def _tasks(table: Table, column: Sequence[Any]) -> list[Task | None]:
    tasks: list[Task | None] = []
    for row, value in enumerate(column, 1):
        task = task_of(value)
        if task is None and value not in (None, ""):
            known = ", ".join(SPELLED)
            raise RowsError.at(table.file, f"{value!r} is none of {known}", "task", row)
        tasks.append(task)
    return tasks


def _sources(table: Table) -> tuple[tuple[str | None, ...], dict[str, Document]]:
    """What each row says of its document."""
    texts = table.columns.get("document")
    if texts is None:
        names = table.columns.get("file", [None] * table.rows)
        return tuple(None if name in (None, "") else str(name) for name in names), {}
    documents: dict[str, Document] = {}
    sources = []
    for row, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise RowsError.at(table.file, "must be a text", "document", row)
        name = digest([text])
        documents.setdefault(name, Document(name, "", text))
        sources.append(name)
    return tuple(sources), documents
