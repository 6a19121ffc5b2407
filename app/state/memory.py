"""A store for one process: what it keeps ends with it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from app.state.store import LONGEST_LOG, Change, Entry, Json, Row


class MemoryStore:
    """Plain dictionaries. `clock` gives seconds that never fall."""

    kind = "memory"

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._documents: dict[str, Json] = {}
        self._logs: dict[str, deque[Entry]] = {}
        self._rows: dict[str, dict[str, tuple[Json, float]]] = {}

    async def change(self, changes: Mapping[str, Change]) -> dict[str, Json]:
        """Change each document by its function, and give what they say now."""
        now = self._clock()
        changed = {name: how(self._documents.get(name), now) for name, how in changes.items()}
        self._documents |= {name: value for name, value in changed.items() if value is not None}
        return changed

    async def append(self, log: str, value: Json, after: int | None = None) -> int | None:
        """Add an entry, and give its number; None if there are later ones than `after`."""
        entries = self._logs.setdefault(log, deque(maxlen=LONGEST_LOG))
        last = entries[-1].number if entries else 0
        if after is not None and after < last:
            return None
        last = last if after is None else after
        entries.append(Entry(last + 1, value))
        return last + 1

    async def entries(self, log: str, after: int) -> Sequence[Entry]:
        """The entries with higher numbers than `after`, oldest first."""
        return [entry for entry in self._logs.get(log, ()) if entry.number > after]

    async def put(self, table: str, name: str, value: Json) -> None:
        """Write a row; it is 0 seconds old."""
        self._rows.setdefault(table, {})[name] = value, self._clock()

    async def rows(self, table: str) -> dict[str, Row]:
        """All rows of a table."""
        now = self._clock()
        rows = self._rows.get(table, {})
        return {name: Row(value, now - at) for name, (value, at) in rows.items()}

    async def remove(self, table: str, names: Sequence[str]) -> None:
        """Remove rows; those that are not there do not matter."""
        for name in names:
            self._rows.get(table, {}).pop(name, None)

    async def close(self) -> None:
        """Nothing to let go of."""
