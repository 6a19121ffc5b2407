"""Connections without sockets and loops without time, for inputs by the hundred thousand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from app.connection import Connection


class Handle:
    """A timer that never rings."""

    def __init__(self, wire: Fed) -> None:
        self._wire = wire
        wire.handles.add(self)

    def cancel(self) -> None:
        """As it says."""
        self._wire.handles.discard(self)


class Loop:
    """An event loop in which no time passes."""

    def __init__(self, wire: Fed) -> None:
        self._wire = wire

    def time(self) -> float:
        """Always the same."""
        return 0.0

    def call_later(self, delay: float, call: Callable[..., object], *args: object) -> Handle:
        """A timer."""
        return Handle(self._wire)


class Fed(asyncio.Transport):
    """A transport that takes everything and sends it nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.handles: set[Handle] = set()
        self.loop = Loop(self)
        self.closed = False
        self.lost: Callable[[Exception | None], object] = lambda _: None

    def timers(self) -> int:
        """How many are set."""
        return len(self.handles)

    def write(self, data: Any) -> None:
        """Nowhere."""

    def is_closing(self) -> bool:
        """Whether it is closed."""
        return self.closed

    def close(self) -> None:
        """At once."""
        if not self.closed:
            self.closed = True
            self.lost(None)

    abort = close

    def pause_reading(self) -> None:
        """It is not read."""

    def resume_reading(self) -> None:
        """It is, if there were anything."""

    def get_write_buffer_size(self) -> int:
        """All has been sent."""
        return 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Nothing is known of it."""
        return default


async def nobody(scope: object, receive: object, send: object) -> None:
    """An application that is never run."""


CONFIG = Config(nobody, http="httptools", ws="none", lifespan="off", log_config=None)
CONFIG.load()


class Silent:
    """A connection of the gateway's listener, whose requests are counted and not answered."""

    def __init__(self) -> None:
        self.wire = Fed()
        self.started: list[RequestResponseCycle] = []
        self.connection = Counting(self)
        self.wire.lost = self.connection.connection_lost
        self.connection.connection_made(self.wire)


class Counting(Connection):
    """Starts nothing, and takes every request for answered."""

    def __init__(self, listening: Silent) -> None:
        super().__init__(
            patience=lambda: 60.0,
            config=CONFIG,
            server_state=ServerState(),
            app_state={},
            _loop=listening.wire.loop,
        )
        self._listening = listening

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: object) -> None:
        cycle.response_complete = True
        self._listening.started.append(cycle)
