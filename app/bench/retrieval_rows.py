"""Questions about one place of a document, and which part of a search's passages answer them.

Knows LaRA's files (arXiv 2502.09977): `questions_32k.parquet` and `contexts_32k/TYPE/FILE`. A
paper's section stands between its tags; books and financial reports were cut into five equal parts
when the questions were written. Must not know how a search works.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.reading.documents import Passage
    from policies.training.outcomes.tables import Table

__all__ = ["Row", "Rows", "bearing", "half", "read", "section"]

PARTS = 5
"""Of a book or a financial report."""
KINDS = (".parquet", ".jsonl", ".csv")
COLUMNS = ("task", "context_type", "file", "context_order", "question", "answer")
ENOUGH = 0.6
"""The share of an answer's words that a passage must hold, at least, to bear it."""
NEARLY = 0.95
"""The share of what the best passage holds that the others must."""


@dataclass(frozen=True, slots=True)
class Row:
    """One question. `kind` is its document's: book, financial or paper."""

    kind: str
    file: str
    part: int
    ask: str
    answer: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Questions, and the documents' texts by file name."""

    rows: Sequence[Row]
    texts: dict[str, str]


def read(folder: Path, length: str) -> Rows:
    """The questions that ask for one place, and their documents. Raises RowsError."""
    from policies.training.outcomes.errors import RowsError
    from policies.training.outcomes.tables import read_table

    files = [folder / f"questions_{length}{kind}" for kind in KINDS]
    table = read_table(next((file for file in files if file.exists()), files[0]))
    rows = [*_rows(table)]
    if not rows:
        raise RowsError.at(table.file, "holds no question of the task location")
    texts = {}
    for file, kind in sorted({(row.file, row.kind) for row in rows}):
        path = folder / f"contexts_{length}" / kind / file
        try:
            texts[file] = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RowsError.at(path, f"cannot be read: {error}") from None
    return Rows(rows, texts)


def _rows(table: Table) -> Iterator[Row]:
    from policies.training.outcomes.errors import RowsError

    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise RowsError.at(table.file, "is missing", missing[0])
    columns = [table.columns[name] for name in COLUMNS]
    for number, (task, kind, file, part, ask, answer) in enumerate(
        zip(*columns, strict=True), start=1
    ):
        if task != "location":
            continue
        if not str(part).isdecimal():
            raise RowsError.at(table.file, f"is no number: {part}", "context_order", number)
        yield Row(kind, file, int(part), ask, answer)


def half(file: str) -> int:
    """1 or 2, told by a document's file name: the half that it is in."""
    return hashlib.md5(file.encode(), usedforsecurity=False).digest()[-1] % 2 + 1


def section(row: Row, text: str) -> tuple[int, int]:
    """First character, and the one after the last, of the part that the question was made of."""
    if row.kind != "paper":
        return row.part * len(text) // PARTS, (row.part + 1) * len(text) // PARTS
    begin, end = (text.find(f"<paper {number}>") for number in (row.part, row.part + 1))
    return max(begin, 0), end if end > 0 else len(text)


def bearing(row: Row, text: str, chunks: Sequence[Passage]) -> set[int]:
    """Which chunks hold the answer's words that the question does not; none, if none holds enough.

    Those within the section, if there are any: elsewhere they may stand by chance.
    """
    from bm25s.stopwords import STOPWORDS_EN

    from policies.reading.terms import terms

    asked = {*terms(row.ask), *STOPWORDS_EN}
    wanted = {*terms(row.answer)} - asked or {*terms(row.answer)} - {*STOPWORDS_EN}
    if not wanted:
        return set()
    shares = [len(wanted & {*terms(chunk.text)}) / len(wanted) for chunk in chunks]
    least = max(ENOUGH, NEARLY * max(shares, default=0))
    found = {at for at, share in enumerate(shares) if share >= least}
    begin, end = section(row, text)
    inside = {at for at in found if chunks[at].end > begin and chunks[at].start < end}
    return inside or found
