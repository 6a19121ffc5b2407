"""What one process has noticed of backends, and others should know: which fail, who holds what.

Two things. A breaker that has opened makes those of the others wary: one failure more opens them,
too. And a prompt that begins like one that another process has sent finds the backend that holds
it, so that a conversation stays with its prefix cache whichever process it comes to.

Hints are hints: nothing waits for them, and one that is lost costs a detour.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from app.state.store import Store
from router.backend import Backend
from router.pool import Pool

LOG = "hints"


class Hints:
    """Exchanges hints about these pools, as the process `name`."""

    def __init__(self, store: Store, name: str, pools: Callable[[], Collection[Pool]]) -> None:
        self._store = store
        self._name = name
        self._pools = pools
        self._failing: set[Backend] = set()
        self._heard: int | None = None

    async def exchange(self) -> None:
        """Tell what is new here, and hear what is new elsewhere; raises `StoreError`."""
        told = self._told()
        if any(told.values()):
            number = await self._store.append(LOG, {"from": self._name, **told})
            if number is not None and number <= (self._heard or 0):
                self._heard = 0  # the store has lost what it knew, and counts anew
        first = self._heard is None
        for entry in await self._store.entries(LOG, self._heard or 0):
            self._heard = entry.number
            if entry.value["from"] != self._name:
                self._hear(entry.value, first=first)
        self._heard = self._heard or 0

    def _told(self) -> dict[str, Any]:
        failing = {b for pool in self._pools() for b in pool.backends if b.failing}
        fails = [backend.name for backend in failing - self._failing]
        self._failing = failing
        holds: dict[str, list[tuple[int, str]]] = {}
        for pool in self._pools():
            news = pool.prefixes.news
            if news:
                holds[pool.name] = [(block, backend.name) for block, backend in news]
                news.clear()
        return {"fails": fails, "holds": holds}

    def _hear(self, told: Mapping[str, Any], *, first: bool) -> None:
        """Believe it. What is heard at a `first` exchange may be old: then only who holds what."""
        for pool in self._pools():
            known = {backend.name: backend for backend in pool.backends}
            for block, name in told["holds"].get(pool.name, ()):
                if backend := known.get(name):
                    pool.prefixes.hear([block], backend)
            for name in () if first else told["fails"]:
                if backend := known.get(name):
                    backend.warn()
