"""From an answer to ASGI messages, and from ASGI messages to a body: the web server's half.

`AsgiSink` is what `router.answer` writes into. `read_body` reads a request up to a limit. Nothing
here looks into what passes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from router.answer import Head
from router.faults import Blame, Fault, FaultError

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGoneError(Exception):
    """The client hung up."""


CLOSE = (b"connection", b"close")
"""What a connection's last answer says: whoever asks again goes where it is still served."""


class AsgiSink:
    """Writes one answer to the web server; `last` says that the connection ends with it."""

    __slots__ = ("_last", "_send")

    def __init__(self, send: Send, *, last: bool = False) -> None:
        self._send = send
        self._last = last

    async def start(self, status: int, head: Head) -> None:
        """Send status and headers."""
        if self._last:
            head = [*head, CLOSE]
        await self._send({"type": "http.response.start", "status": status, "headers": head})

    def send(self, data: bytes, last: bool) -> Awaitable[None]:
        """Send part of the body; waits while the client reads more slowly than we write."""
        return self._send({"type": "http.response.body", "body": data, "more_body": not last})


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body. `FaultError` 413 if it is longer than `limit`; `ClientGoneError`."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(limit: int) -> FaultError:
    """The fault of a body over the limit."""
    message = f"the body is larger than {limit / 2**20:g} MB (limits.body_mb)"
    return FaultError(Fault(Blame.CLIENT, message, 413, "body_too_large"))
