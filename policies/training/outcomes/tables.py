"""Files as columns: Parquet, JSON lines and CSV give the same names and the same plain values.

Knows how values are written, not what any column means.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from policies.training.outcomes.errors import RowsError

__all__ = [
    "KINDS",
    "MODEL_COLUMNS",
    "Table",
    "read_table",
    "spelled_alike",
    "united",
    "write_table",
]

MODEL_COLUMNS = ("score", "correct", "cost", "chars", "output")
"""What stands before the slash in the name of a column that is about one model."""
KINDS = (".parquet", ".jsonl", ".csv")
"""What a file's name may end in."""


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of one file: lists of equal length, None where there is no value.

    A CSV's values are all strings.
    """

    file: Path
    columns: Mapping[str, Sequence[Any]]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.columns.values()), ()))

    def named(self, prefix: str) -> list[str]:
        """What follows `prefix/` in the names of columns, in their order."""
        start = f"{prefix}/"
        return [name.removeprefix(start) for name in self.columns if name.startswith(start)]


def read_table(file: Path) -> Table:
    """All of `file`; raises `RowsError` for one that is missing, empty or of another kind."""
    readers = dict(zip(KINDS, (_parquet, _json_lines, _csv), strict=True))
    read = readers.get(file.suffix.lower())
    if read is None:
        raise RowsError.at(file, f"is none of {', '.join(KINDS)}: name a file of one of these")
    try:
        table = Table(file, read(file))
    except OSError as error:
        raise RowsError.at(file, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise RowsError.at(file, "is not UTF-8: save it in this encoding") from None
    if not table.rows:
        raise RowsError.at(file, "holds no rows")
    return table


def spelled_alike(model: str) -> str:
    """Equal for spellings of one model: case, and the "Meta-" that Llama's names lost, are none."""
    return model.lower().removeprefix("meta-")


def united(tables: Sequence[Table]) -> list[Table]:
    """The same tables, each model spelled everywhere as where it is named first."""
    first: dict[str, str] = {}
    changed = []
    for table in tables:
        columns: dict[str, Sequence[Any]] = {}
        for name, values in table.columns.items():
            prefix, slash, model = name.partition("/")
            if slash and prefix in MODEL_COLUMNS:
                name = f"{prefix}/{first.setdefault(spelled_alike(model), model)}"  # noqa: PLW2901
            if name in columns:
                raise RowsError.at(table.file, "is there twice: rename or drop one of them", name)
            columns[name] = values
        changed.append(Table(table.file, columns))
    return changed


def write_table(columns: Mapping[str, Sequence[Any]], file: Path) -> None:
    """Write a Parquet file; raises `RowsError` if that cannot be done."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: pa.array(list(v)) for name, v in columns.items()}), file)
    except OSError as error:
        raise RowsError.at(file, f"cannot be written: {error.strerror or error}") from None


def _parquet(file: Path) -> dict[str, Sequence[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Arrow's threads, where one is still at work when Python ends, abort the whole program.
        with file.open("rb") as opened:
            table = pq.read_table(opened, use_threads=False, pre_buffer=False)
    except pa.ArrowInvalid:
        raise RowsError.at(file, "is no Parquet file, or a broken one") from None
    _distinct(file, table.column_names)
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _json_lines(file: Path) -> dict[str, Sequence[Any]]:
    objects = [*_objects(file)]
    names = dict.fromkeys(name for read in objects for name in read)
    return {name: [read.get(name) for read in objects] for name in names}


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            read = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise RowsError.at(file, f"is not JSON: {error}", row=number) from None
        if not isinstance(read, dict):
            raise RowsError.at(file, "is no JSON object", row=number)
        yield read


def _csv(file: Path) -> dict[str, Sequence[Any]]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.reader(opened)
        names = next(reader, [])
        _distinct(file, names)
        columns: dict[str, list[str]] = {name: [] for name in names}
        for number, values in enumerate(reader, start=1):
            if len(values) != len(names):
                problem = f"has {len(values)} values, and there are {len(names)} columns"
                raise RowsError.at(file, problem, row=number)
            for name, value in zip(names, values, strict=True):
                columns[name].append(value)
    return {**columns}


def _distinct(file: Path, names: Sequence[str]) -> None:
    twice = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if twice:
        raise RowsError.at(file, "is there twice: rename or drop one of them", twice[0])
