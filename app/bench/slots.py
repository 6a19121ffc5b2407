"""A server of finite capacity: `python -m app.bench.slots PORT SLOTS SECONDS SPREAD SEED`.

What is true of an engine under overload and of no canned answer: at most SLOTS answers are written
at once, each takes its time (lognormal, SECONDS in the mean, SPREAD the deviation of its log), and
whatever else comes waits in one queue without an end, first come, first served, as in vLLM. A
client that hangs up is forgotten at once, in the queue or in the middle of its answer.

It streams chats only, and must not know what it is a benchmark of.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import sys
from typing import cast

import uvloop

__all__ = ["MODEL", "main"]

MODEL = "slots"
"""What it calls its model."""

PIECES = 4
"""Events of an answer, evenly over its time."""
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ASKED = re.compile(rb"\r\nx-request-id:", re.IGNORECASE)
"""What a gateway sends on for its clients has an id; what it asks for itself has none."""
PAGES = {
    b"GET /health": b"{}",
    b"GET /v1/models": b'{"object":"list","data":[{"id":"%b","object":"model"}]}' % MODEL.encode(),
}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PLAIN = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"


def _event(fields: bytes) -> bytes:
    event = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",%b}\n\n'
    return _chunk(event % fields)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


PIECE = _event(b'"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]')
END = (
    _event(b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]')
    + _event(
        b'"choices":[],"usage":{"prompt_tokens":200,"completion_tokens":64,"total_tokens":264}'
    )
    + _chunk(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


class Server:
    """The slots, and how long answers take."""

    def __init__(self, slots: int, seconds: float, spread: float, seed: int) -> None:
        self.slots = asyncio.Semaphore(slots)
        self._rng = random.Random(seed)
        self._middle = math.log(seconds) - spread**2 / 2
        self._spread = spread

    def seconds(self) -> float:
        """Of the next answer."""
        return self._rng.lognormvariate(self._middle, self._spread)


class Connection(asyncio.Protocol):
    """One request after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._unread = b""
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        end = self._unread.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(self._unread, 0, end)
        size = end + 4 + (int(length.group(1)) if length else 0)
        if len(self._unread) < size:
            return
        request, self._unread = self._unread[:size], self._unread[size:]
        if ASKED.search(request, 0, end):
            self._task = asyncio.create_task(self._answer())
        else:
            self._tell(request)

    def _tell(self, request: bytes) -> None:
        """What health checks and probes ask; most of it this server does not have."""
        body = PAGES.get(b" ".join(request.split(b" ", 2)[:2]))
        status = b"404 Not Found" if body is None else b"200 OK"
        body = body or b'{"detail":"Not Found"}'
        self._transport.write(PLAIN % (status, len(body), body))

    async def _answer(self) -> None:
        async with self._server.slots:
            pause = self._server.seconds() / PIECES
            self._transport.write(HEAD)
            for _ in range(PIECES):
                await asyncio.sleep(pause)
                self._transport.write(PIECE)
            self._transport.write(END)


async def _serve(port: int, server: Server) -> None:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", port, backlog=4096)
    await listener.serve_forever()


def main() -> None:
    """Serve until killed."""
    port, slots, seconds, spread, seed = sys.argv[1:6]
    server = Server(int(slots), float(seconds), float(spread), int(seed))
    uvloop.run(_serve(int(port), server))


if __name__ == "__main__":
    main()
