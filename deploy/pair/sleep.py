"""The server's sleep mode, with the endpoints and the ways of vLLM's (0.32).

    POST /sleep?level=0..2&mode=abort|wait    GET /is_sleeping
    POST /wake_up?tags=weights&tags=kv_cache  POST /collective_rpc {"method": "reload_weights"}

While it sleeps, requests are taken and lie where they are; what needs no weights is answered. Level
1 frees the weights, which waking reads again; level 2 forgets them too, and waking brings back room
for them, not what was there: that takes `reload_weights`. Here vLLM answers with rubbish if it is
left out, and this server with an error. `mode=keep` is not spoken here: kept answers would need
their caches back.

Knows the engine and what HTTP asks for. Must not know bodies, tokens or who is asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias
from urllib.parse import parse_qs

import orjson

from deploy.pair.engine import Engine
from deploy.pair.exchange import Exchange
from deploy.pair.refusal import Refusal, refuse

WEIGHTS, CACHES = "weights", "kv_cache"
TAGS = frozenset({WEIGHTS, CACHES})
DEEPEST = 2

Handler: TypeAlias = Callable[[Exchange], Awaitable[None]]


class SleepMode:
    """Whether one engine sleeps. Whoever steps it asks `paused`, and says when it is `idle`."""

    def __init__(self, engine: Engine) -> None:
        self.level = 0
        self.idle = asyncio.Event()
        self.resumed = asyncio.Event()
        self.resumed.set()
        self._engine = engine
        self._gone: frozenset[str] = frozenset()

    @property
    def paused(self) -> bool:
        """Whether no request may begin."""
        return self._engine.paused

    @property
    def usable(self) -> bool:
        """Whether there are weights to answer with."""
        return self._engine.graph.loaded

    async def sleep(self, level: int) -> None:
        """Begin nothing new, wait for what runs, and free what the level frees."""
        self._engine.paused = True
        self.resumed.clear()
        while self._engine.running:
            self.idle.clear()
            await self.idle.wait()
        if level and not self._gone and self.paused:
            self.level, self._gone = level, TAGS
            self._engine.unload()

    def wake_up(self, tags: Iterable[str] | None) -> bool:
        """Bring these back, or everything; whether it is awake now."""
        back = TAGS if tags is None else frozenset(tags)
        if WEIGHTS in back & self._gone and self.level < DEEPEST:
            self._engine.graph.load()
        self._gone -= back
        if not self._gone:
            self.level, self._engine.paused = 0, False
            self.resumed.set()
        return not self._gone

    def reload_weights(self) -> None:
        """Read the weights into the room that waking has brought back."""
        if WEIGHTS in self._gone:
            raise Refusal(500, "InternalServerError", "There is no memory for the weights.")
        self._engine.graph.load()


class Sleeper(Protocol):
    """A model that is served, as far as sleep is concerned."""

    @property
    def sleep(self) -> SleepMode:
        """Whether it sleeps."""

    async def fall_asleep(self, level: int, *, wait: bool) -> None:
        """Sleep; break off what runs, unless it may finish first."""

    def wake_up(self, tags: Iterable[str] | None) -> bool:
        """Wake; whether it is awake now."""


class SleepRoutes:
    """The endpoints. The models of one process sleep and wake together."""

    def __init__(self, models: Sequence[Sleeper]) -> None:
        self._models = models

    @property
    def handlers(self) -> Mapping[str, dict[str, Handler]]:
        """By path and method."""
        return {
            "/sleep": {"POST": self._sleep},
            "/wake_up": {"POST": self._wake_up},
            "/is_sleeping": {"GET": self._is_sleeping},
            "/collective_rpc": {"POST": self._call},
        }

    async def _sleep(self, exchange: Exchange) -> None:
        query = parse_qs(exchange.query)
        level = query.get("level", ["1"])[-1]
        mode = query.get("mode", ["abort"])[-1]
        if level not in {"0", "1", "2"}:
            refuse("Input should be 0, 1 or 2", "level")
        if mode not in {"abort", "wait"}:
            refuse("Input should be 'abort' or 'wait'", "mode")
        for served in self._models:
            await served.fall_asleep(int(level), wait=mode == "wait")
        await exchange.json({"status": "sleeping", "level": int(level)})

    async def _wake_up(self, exchange: Exchange) -> None:
        tags = parse_qs(exchange.query).get("tags")
        awake = [served.wake_up(tags) for served in self._models]
        await exchange.json({"status": "awake" if all(awake) else "sleeping", "tags": tags})

    async def _is_sleeping(self, exchange: Exchange) -> None:
        sleeping = any(served.sleep.paused for served in self._models)
        await exchange.json({"is_sleeping": sleeping})

    async def _call(self, exchange: Exchange) -> None:
        try:
            asked = orjson.loads(await exchange.body())
        except orjson.JSONDecodeError as error:
            refuse(f"JSON decode error: {error}")
        if not isinstance(asked, dict) or asked.get("method") != "reload_weights":
            refuse("The embedded pair knows one method: reload_weights", "method")
        for served in self._models:
            served.sleep.reload_weights()
        await exchange.json({"results": [None]})
