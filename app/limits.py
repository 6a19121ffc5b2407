"""Limits of API keys: a bucket that refills, and what was spent.

Rates are buckets: a key may use a minute's worth at once and then as fast as the bucket refills, so
in any one minute it gets at most twice its limit. What an answer costs is known only when it has
ended. Hence a bucket of tokens is asked whether anything is left, and is charged afterwards: it may
go below zero by the answers then in flight, and the key waits until that is paid back.

Money is kept on disk. Each process adds what its requests cost and reads back what all processes
have spent, in one SQLite transaction: it survives restarts and crashes, and N processes share one
limit to within the seconds between two such moments. Rates are counted per process.

This file knows no key and no request. Time is passed in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

__all__ = ["Bucket", "Spending"]

MINUTE = 60.0

TABLE = "create table if not exists spend (name text primary key, usd real not null)"
ADD = "insert into spend values (?, ?) on conflict (name) do update set usd = usd + excluded.usd"

BUSY = 5.0
"""Seconds to wait for another process's transaction, which takes milliseconds."""


class Bucket:
    """Holds `per_minute` units when full and refills evenly. The level may be negative."""

    __slots__ = ("_at", "_full", "_level")

    def __init__(self, per_minute: int, now: float) -> None:
        self._full = float(per_minute)
        self._level = self._full
        self._at = now

    def take(self, units: float, now: float) -> None:
        """Take `units`, whether or not they are there."""
        self._refill(now)
        self._level -= units

    def wait(self, now: float) -> float:
        """Seconds until one unit is there; 0 if it is there now."""
        self._refill(now)
        return 0.0 if self._level >= 1 else (1 - self._level) * MINUTE / self._full

    def inherit(self, other: Bucket, now: float) -> None:
        """Be as full or as overdrawn as a bucket of another size, so that a wait stays as long."""
        other._refill(now)
        self._level = self._full * other._level / other._full

    def _refill(self, now: float) -> None:
        gained = (now - self._at) * self._full / MINUTE
        self._level = min(self._level + gained, self._full)
        self._at = now


class Spending:
    """USD spent per name, in the SQLite file `path`. Blocks for milliseconds: not for the loop."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, spent: Mapping[str, float]) -> dict[str, float]:
        """Add these amounts and return everybody's totals. Raises sqlite3.Error."""
        with closing(sqlite3.connect(self.path, timeout=BUSY)) as db, db:
            db.execute(TABLE)
            db.executemany(ADD, spent.items())
            return dict(db.execute("select name, usd from spend"))
