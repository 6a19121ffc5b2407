"""One HTTP request and its response, over ASGI.

Knows ASGI messages, JSON bodies and server-sent events. Must not know what is asked or answered.
A stream is bytes as soon as they are known: one event, one write, and the write waits when the
client is slow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

import orjson

from deploy.pair.refusal import Refusal

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

# The longest honest body is a batch of prompts that fill the context, as token ids.
_MOST_BYTES = 8 * 2**20


class GoneError(Exception):
    """The client left before its request was complete; nobody is there to hear an answer."""


class Exchange:
    """What a handler reads from and writes to."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.query: str = scope.get("query_string", b"").decode("latin-1")
        self._receive = receive
        self._send = send
        self._streams = False

    async def body(self) -> bytes:
        """The whole body of a JSON request. Raises Refusal (400, 413) or GoneError."""
        kind = self.headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            message = "Unsupported Media Type: Only 'application/json' is allowed"
            raise Refusal(400, "Bad Request", f"1 validation error:\n  {message}")
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            part = await self._next()
            parts.append(part.get("body", b""))
            size += len(parts[-1])
            if size > _MOST_BYTES:
                limit = f"The body is longer than {_MOST_BYTES} bytes."
                raise Refusal(413, "Content Too Large", limit)
            more = part.get("more_body", False)
        return b"".join(parts)

    async def client_left(self) -> None:
        """Return when the client closes the connection (only after the body was read)."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def reply(self, status: int, body: bytes, kind: bytes) -> None:
        """One whole response."""
        length = str(len(body)).encode()
        await self._start(status, [(b"content-type", kind), (b"content-length", length)])
        await self._send({"type": "http.response.body", "body": body})

    async def json(self, value: object, status: int = 200) -> None:
        """One whole response of JSON."""
        body = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
        await self.reply(status, body, b"application/json")

    async def open_stream(self) -> None:
        """Begin a stream of events; from here on, a refusal is an event too."""
        self._streams = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
        ]
        await self._start(200, headers)

    async def event(self, value: object) -> None:
        """One server-sent event."""
        await self._write(b"data: " + orjson.dumps(value) + b"\n\n", more=True)

    async def close_stream(self) -> None:
        """OpenAI's last event."""
        await self._write(b"data: [DONE]\n\n", more=False)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error: as a status, or inside a stream that has begun."""
        if not self._streams:
            await self.json(refusal.body(), refusal.status)
            return
        await self.event(refusal.body())
        await self.close_stream()

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        return message

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _write(self, body: bytes, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
