"""This process among those that act as one: it says that it lives, and exchanges with the others.

A few times a second it writes a row (who it is, which revision serves here), takes up revisions
that others have written, and runs the *exchanges* of whoever has something to share. A store that
cannot be reached is told once, and again when it is back; meanwhile everybody goes on with what is
known.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from app.state.store import Row, Store, StoreError
from router.revisions import JournalError, Revisions

TICK = 0.25
"""Seconds between two exchanges: a swap reaches everybody within a second, building included."""
DEAD = 3.0
"""Seconds without a sign after which a process counts no more: twelve ticks."""
FORGOTTEN = 60.0
"""Seconds after which the row of one that is gone is removed; until then operators see it."""
AGAIN = 10.0
"""Seconds between two tries to build a revision that could not be built here."""
TABLE = "members"

Exchange: TypeAlias = Callable[[], Awaitable[None]]
"""Gives to the store what is new here and takes what is new there; may raise `StoreError`."""

logger = logging.getLogger("tandem.state")


@dataclass(frozen=True, slots=True)
class Sign:
    """What one process last said of itself, so many seconds ago."""

    name: str
    host: str
    pid: int
    revision: int
    etag: str
    problem: str
    draining: bool
    age: float

    @property
    def alive(self) -> bool:
        """Whether it gave a sign of late."""
        return self.age < DEAD


def member_name() -> str:
    """What this process is called: no other one, before or after, has the name."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(3)}"


class Member:
    """This process, called `name`, in the shared `store`."""

    def __init__(
        self,
        store: Store,
        revisions: Revisions,
        name: str,
        exchanges: Sequence[Exchange] = (),
    ) -> None:
        self.name = name
        self.draining = False
        self.trouble = ""
        self.alive = 1
        self.lagging = 0
        self._store = store
        self._revisions = revisions
        self._exchanges = exchanges
        self._signs: dict[str, Row] = {}
        self._tried = 0.0

    @property
    def share(self) -> float:
        """This process's share of what all together may do: an equal one."""
        return 1 / self.alive

    @property
    def kind(self) -> str:
        """The kind of store: `memory`, `sqlite` or `redis`."""
        return self._store.kind

    async def keep(self) -> None:
        """Exchange for ever. The app starts it as a task."""
        while True:
            await self.tick()
            await asyncio.sleep(TICK)

    async def tick(self) -> None:
        """One exchange."""
        try:
            await self._follow()
            await self._store.put(TABLE, self.name, self._said())
            await self._look()
            for exchange in self._exchanges:
                await exchange()
        except (StoreError, JournalError) as error:
            if not self.trouble:
                logger.warning("%s; going on with what is known", error)
            self.trouble = str(error)
        else:
            if self.trouble:
                logger.warning("the store is back")
                self._tried = -AGAIN  # it may have lost what it knew
            self.trouble = ""

    async def leave(self) -> None:
        """Say that this process is gone, if anybody can hear it."""
        try:
            await self._store.remove(TABLE, [self.name])
        except StoreError as error:
            logger.warning("could not sign off: %s", error)

    async def signs(self) -> Sequence[Sign]:
        """What all processes last said of themselves, this one as it is now; by name."""
        try:
            self._signs = await self._store.rows(TABLE)
        except StoreError as error:
            self.trouble = str(error)
        rows = self._signs | {self.name: Row(self._said(), 0.0)}
        return [Sign(name=name, age=row.age, **row.value) for name, row in sorted(rows.items())]

    async def _follow(self) -> None:
        again = time.monotonic() - self._tried > AGAIN
        if again:
            self._tried = time.monotonic()
        await self._revisions.follow(again=again)

    async def _look(self) -> None:
        self._signs = await self._store.rows(TABLE)
        live = [row.value for row in self._signs.values() if row.age < DEAD]
        newest = self._revisions.active.number
        self.alive = max(len(live), 1)
        self.lagging = sum(said["revision"] != newest for said in live)
        old = [name for name, row in self._signs.items() if row.age > FORGOTTEN]
        await self._store.remove(TABLE, old)

    def _said(self) -> dict[str, object]:
        runtime, behind = self._revisions.runtime, self._revisions.behind
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "revision": runtime.revision,
            "etag": runtime.etag,
            "problem": f"revision {behind.number}: {behind.why}" if behind else "",
            "draining": self.draining,
        }
