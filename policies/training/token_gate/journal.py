"""What a stage has found out, one JSON line a finding: a broken run goes on where it stopped.

Knows files. Must not know what the rows mean, except that each has an `id`. The rules: a row is
written when its finding is complete, and never changed; a line that a crash cut short is dropped
and asked again; and rows that were found under other settings are never mixed with these.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from policies.training.token_gate.errors import TrainingError

Row: TypeAlias = dict[str, Any]


class Journal:
    """The rows of one stage, in memory and in a file."""

    def __init__(self, file: Path) -> None:
        """Reads what is there. Raises TrainingError for a line that is broken and not the last."""
        self.file = file
        self.rows: dict[str, Row] = {}
        if file.exists():
            self._read()

    def __contains__(self, id_: str) -> bool:
        return id_ in self.rows

    def __getitem__(self, id_: str) -> Row:
        return self.rows[id_]

    def add(self, row: Row) -> None:
        """Keep a finding: in the file first."""
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.rows[row["id"]] = row

    def _read(self) -> None:
        whole = 0
        with self.file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break  # cut short: the process died while it wrote
                try:
                    row = json.loads(line)
                    self.rows[row["id"]] = row
                except (ValueError, KeyError, TypeError) as error:
                    raise TrainingError(
                        f"{self.file}, line {number}, is damaged ({error}): delete the line, and "
                        "what it held is asked again"
                    ) from error
                whole += len(line)
        if whole < self.file.stat().st_size:
            os.truncate(self.file, whole)


def same_settings(file: Path, settings: Mapping[str, object]) -> None:
    """Note under which settings this folder's rows are found; those of an earlier run must agree.

    Raises TrainingError that names the first setting which differs.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if before.get(name) != value:
            raise TrainingError(
                f"{file.parent} was begun with {name} = {before.get(name)!r}, and this is "
                f"{value!r}: say what it was, or take another folder"
            )
