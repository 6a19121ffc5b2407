"""Upstream: HTTP to the backends, and nothing that is above HTTP.

`router.http1` does the talking, `router.origins` the connecting (decision 0001 says why not a
library). What can go wrong at this level becomes a `FaultError` here, so that no caller ever sees
an `HttpError`. Waiting limits are the caller's; only the time to connect is kept below, because
nobody else sees the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

from router import http1
from router.faults import Blame, Fault, FaultError
from router.origins import Client

STALE = 0.05
"""Seconds: a kept connection that breaks this soon after sending was closed before, and the call
never reached the backend; it is made once more on a fresh connection. Later than that, the backend
may have died of the call."""
FINISH = 0.05
"""Seconds to wait for the end of a stream that has said that it is done, to keep its connection."""


READ_ERRORS = (http1.HttpError,)
"""What `Reply.read` may raise; `broken_off` says what that means."""


def broken_off(error: Exception) -> FaultError:
    """The fault of a connection that broke while its answer was read."""
    return broken(f"the connection broke during the answer: {error}", "broken")


def broken(message: str, code: str = "backend_error") -> FaultError:
    """A backend's failure below the level of HTTP statuses."""
    return FaultError(Fault(Blame.BACKEND, message, 502, code))


class Reply:
    """A backend's answer, its body still to be read. `close` is idempotent and never waits.

    `read` gives whatever has arrived, at once, and nothing at the end; it is the exchange's own
    bound method, since it is called once per token, and so raises `READ_ERRORS`.
    """

    __slots__ = ("_exchange", "kind", "read", "status")

    def __init__(self, exchange: http1.Exchange) -> None:
        self._exchange = exchange
        self.status = exchange.status
        self.kind = exchange.kind
        self.read: Callable[[], Awaitable[bytes]] = exchange.read

    async def read_whole(self, limit: int) -> bytes:
        """The whole body; a `FaultError` if it is longer than `limit` bytes."""
        parts, size = [], 0
        try:
            while part := await self.read():
                size += len(part)
                if size > limit:
                    raise broken(f"the answer is longer than {limit} bytes", "answer_too_large")
                parts.append(part)
        except READ_ERRORS as error:
            raise broken_off(error) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def finish(self) -> None:
        """Let a stream that is over end by itself, so that its connection can be used again."""
        if self._exchange.complete:
            return
        try:
            async with asyncio.timeout(FINISH):
                await self._exchange.read()
        except (TimeoutError, http1.HttpError):
            pass

    def close(self) -> None:
        """Hang up; a body that was read to its end leaves the connection for others."""
        self._exchange.close()


class Upstream:
    """The way to all backends. Make it inside a running loop; close it after."""

    def __init__(self, connect: float) -> None:
        self._client = Client(connect)

    async def send(self, base: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """POST `body`; the reply comes with its status and type. Raises `FaultError`.

        A kept connection that had been closed before the call reached the backend is no failure:
        the call is made once more on a fresh one.
        """
        began = monotonic()
        try:
            try:
                return Reply(await self._client.post(base, path, body, headers))
            except http1.StaleError:
                if monotonic() - began > STALE:
                    raise
            return Reply(await self._client.post(base, path, body, headers, fresh=True))
        except http1.HttpError as error:
            raise _fault_of(error) from error

    async def close(self) -> None:
        """Close every connection."""
        self._client.close()


def _fault_of(error: http1.HttpError) -> FaultError:
    match error:
        case http1.ConnectTimeoutError():
            return broken("the backend did not accept a connection in time", "connect_timeout")
        case http1.ExhaustedError():
            message = f"the gateway can open no more connections: {error} (see ulimit -n)"
            return FaultError(Fault(Blame.GATEWAY, message, 503, "exhausted", retry_after=1.0))
        case http1.ConnectError():
            return broken(f"cannot connect to the backend: {error}", "unreachable")
        case http1.HungUpError():
            return broken("the backend hung up before it answered", "hung_up")
        case _:
            return broken(f"the backend does not speak HTTP: {error}", "malformed")
