"""A store for the processes of one machine: a SQLite file in WAL mode.

One thread has the one connection, so nothing blocks the event loop and transactions of one process
never meet. Those of several do, for microseconds each: `BEGIN IMMEDIATE` takes the lock before
anything is read, and SQLite waits for it. Time is the machine's monotonic clock, which all its
processes share; at a boot it begins anew, and rows from before are infinitely old.

A crash of the machine may lose the last second (`synchronous=NORMAL`); a killed process, nothing.
"""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from app.state.store import LONGEST_LOG, PATIENCE, Change, Entry, Json, Row, StoreError

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], T]

SCHEMA = (
    "create table if not exists documents (name text primary key, value text) without rowid",
    """create table if not exists logs
    (log text, number integer, value text, primary key (log, number)) without rowid""",
    """create table if not exists rows
    (tab text, name text, value text, at real, primary key (tab, name)) without rowid""",
)
READ = "select value from documents where name = ?"
WRITE = "insert or replace into documents values (?, ?)"
LAST = "select max(number) from logs where log = ?"
ADD = "insert into logs values (?, ?, ?)"
TRIM = "delete from logs where log = ? and number <= ?"
AFTER = "select number, value from logs where log = ? and number > ? order by number"
PUT = "insert or replace into rows values (?, ?, ?, ?)"
ROWS = "select name, value, at from rows where tab = ?"
REMOVE = "delete from rows where tab = ? and name = ?"


class SqliteStore:
    """The file `path`, made if it is not there. `clock` gives seconds, alike in all processes."""

    kind = "sqlite"

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "tandem-store")
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    async def change(self, changes: Mapping[str, Change]) -> dict[str, Json]:
        """Change each document by its function, and give what they say now."""
        if not changes:
            return {}
        return await self._do(lambda db: _change(db, changes, self._clock()))

    async def append(self, log: str, value: Json, after: int | None = None) -> int | None:
        """Add an entry, and give its number; None if there are later ones than `after`."""
        return await self._do(lambda db: _append(db, log, json.dumps(value), after))

    async def entries(self, log: str, after: int) -> Sequence[Entry]:
        """The entries with higher numbers than `after`, oldest first."""
        found = await self._read(AFTER, (log, after))
        return [Entry(number, json.loads(value)) for number, value in found]

    async def put(self, table: str, name: str, value: Json) -> None:
        """Write a row; it is 0 seconds old."""
        row = (table, name, json.dumps(value), self._clock())
        await self._do(lambda db: db.execute(PUT, row))

    async def rows(self, table: str) -> dict[str, Row]:
        """All rows of a table."""
        found, now = await self._read(ROWS, (table,)), self._clock()
        return {
            name: Row(json.loads(value), now - at if at <= now else math.inf)
            for name, value, at in found
        }

    async def remove(self, table: str, names: Sequence[str]) -> None:
        """Remove rows; those that are not there do not matter."""
        which = [(table, name) for name in names]
        await self._do(lambda db: db.executemany(REMOVE, which))

    async def close(self) -> None:
        """Let go of the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._forget)
        self._thread.shutdown(wait=False)

    # ------------------------------------------------------------------- in the store's thread

    async def _do(self, work: Work[T]) -> T:
        """Do this as one transaction."""

        def transact(db: sqlite3.Connection) -> T:
            db.execute("begin immediate")
            try:
                done = work(db)
                db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise
            return done

        return await self._run(transact)

    async def _read(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return await self._run(lambda db: db.execute(query, values).fetchall())

    async def _run(self, work: Work[T]) -> T:
        def run() -> T:
            try:
                return work(self._connected())
            except (sqlite3.Error, OSError) as error:
                self._forget()
                raise StoreError(f"{self.path}: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _connected(self) -> sqlite3.Connection:
        """The connection: kept, unless something went wrong or another file has its place."""
        if self._connection is None or self._inode != _inode(self.path):
            self._forget()
            db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            self._connection = db
            self.path.chmod(0o600)
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = normal")
            for statement in SCHEMA:
                db.execute(statement)
            self._inode = _inode(self.path)
        return self._connection

    def _forget(self) -> None:
        if self._connection is not None:
            with closing(self._connection):
                self._connection = None


def _inode(path: Path) -> int:
    """Which file is there; 0 if there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _change(db: sqlite3.Connection, changes: Mapping[str, Change], now: float) -> dict[str, Json]:
    changed: dict[str, Json] = {}
    for name, how in changes.items():
        found = db.execute(READ, (name,)).fetchone()
        changed[name] = how(json.loads(found[0]) if found else None, now)
    said = {name: value for name, value in changed.items() if value is not None}
    written: Iterable[tuple[str, str]] = ((name, json.dumps(value)) for name, value in said.items())
    db.executemany(WRITE, written)
    return changed


def _append(db: sqlite3.Connection, log: str, value: str, after: int | None) -> int | None:
    last = db.execute(LAST, (log,)).fetchone()[0] or 0
    if after is not None and after < last:
        return None
    last = last if after is None else after
    db.execute(ADD, (log, last + 1, value))
    db.execute(TRIM, (log, last + 1 - LONGEST_LOG))
    return int(last) + 1
