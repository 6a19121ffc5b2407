"""A store: what several processes know in common, in six verbs.

Three kinds of things are kept. *Documents* are small values that are changed as one: whoever
changes a document sees the latest, and no change is lost. *Logs* only grow: entries are numbered
from 1 and everybody sees them in one order; old ones are dropped at the front. *Rows* belong to
whoever wrote them, and tell how old they are.

Time is the store's own, in seconds; it never falls and says nothing of dates. So processes on
several machines need no common clock, and a wall clock that jumps changes nothing.

The rule: a store that cannot be reached raises `StoreError` within `PATIENCE` and is asked again
later; nothing here decides what to do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

PATIENCE = 1.0
"""Seconds to wait for a store. One on the same network answers within a millisecond; a request that
needs a lease waits as long."""
LONGEST_LOG = 1000
"""Entries of a log that are kept at least."""

Json: TypeAlias = Any
"""What JSON can say."""
Change: TypeAlias = Callable[[Json, float], Json]
"""From the document (None if there is none) and the store's time to the next one; None where there
is nothing to write. May be called more than once, so it changes nothing but what it returns."""


class StoreError(Exception):
    """The store cannot be reached, or cannot keep anything; the message says why in one line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log."""

    number: int
    value: Json


@dataclass(frozen=True, slots=True)
class Row:
    """Something that one process keeps up to date; `age` is in seconds."""

    value: Json
    age: float


class Store(Protocol):
    """Where it is kept. Every method may raise `StoreError`."""

    @property
    def kind(self) -> str:
        """`memory`, `sqlite` or `redis`."""

    async def change(self, changes: Mapping[str, Change]) -> dict[str, Json]:
        """Change each document by its function, and give what they say now."""

    async def append(self, log: str, value: Json, after: int | None = None) -> int | None:
        """Add an entry, and give its number: the one after `after`, or after the last; None if
        `after` was given and there are later ones. A log that was lost goes on where it was.
        """

    async def entries(self, log: str, after: int) -> Sequence[Entry]:
        """The entries with higher numbers than `after`, oldest first."""

    async def put(self, table: str, name: str, value: Json) -> None:
        """Write a row; it is 0 seconds old."""

    async def rows(self, table: str) -> dict[str, Row]:
        """All rows of a table."""

    async def remove(self, table: str, names: Sequence[str]) -> None:
        """Remove rows; those that are not there do not matter."""

    async def close(self) -> None:
        """Let go of it."""
