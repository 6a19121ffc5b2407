"""A backend that costs next to nothing: `python -m app.bench.upstream PORT CHUNKS INTERVAL_MS`.

It speaks as much of vLLM's HTTP as a gateway needs: answers and streams of fixed size, the usage
event if asked for, health and the list of models. Raw protocol instead of a framework, so that what
is measured is the proxy in front of it. The name of the model that was asked for stands at the head
of every content, which lets a benchmark see which config an answer was made under.

A wheel of one-millisecond slots paces all streams; a timer per stream would cost more than the
writes. Must not know what it is a benchmark of.
"""

from __future__ import annotations

import asyncio
import re
import sys
from functools import lru_cache
from typing import cast

import uvloop

__all__ = ["ANSWER_BYTES", "MODEL", "main"]

MODEL = "bench"
"""The model that it serves under, if no other is asked for."""

ANSWER_BYTES = 600
"""Size of a whole answer's body: what vLLM sends for some 60 tokens without log-probabilities."""

SLOT = 0.001
"""Seconds between two turns of the wheel; libuv's timers are no finer."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model": ?"([^"]*)"')
_STREAM = re.compile(rb'"stream": ?true')
_USAGE = re.compile(rb'"include_usage": ?true')

_PLAIN = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_FRAME = b'{"id":"chatcmpl-bench","object":"chat.completion%b","created":1,"model":"%b",%b}'


def _chunk(data: bytes) -> bytes:
    """`data` as one server-sent event in one HTTP chunk."""
    event = b"data: %b\n\n" % data
    return b"%x\r\n%b\r\n" % (len(event), event)


@lru_cache(maxsize=16)
def _answer(model: bytes) -> bytes:
    fields = (
        b'"choices":[{"index":0,"message":{"role":"assistant","content":"%b %b"},'
        b'"logprobs":null,"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":200,"completion_tokens":64,"total_tokens":264}'
    )
    bare = len(_FRAME % (b"", model, fields % (model, b"")))
    body = _FRAME % (b"", model, fields % (model, b"x" * (ANSWER_BYTES - bare)))
    return _PLAIN % (b"200 OK", len(body), body)


@lru_cache(maxsize=16)
def _piece(model: bytes) -> bytes:
    fields = (
        b'"choices":[{"index":0,"delta":{"content":"%b word"},'
        b'"logprobs":null,"finish_reason":null}]'
    )
    return _chunk(_FRAME % (b".chunk", model, fields % model))


@lru_cache(maxsize=16)
def _ending(model: bytes, usage: bool) -> bytes:
    stop = b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]'
    counts = b'"choices":[],"usage":{"prompt_tokens":200,"completion_tokens":64,"total_tokens":264}'
    events = _chunk(_FRAME % (b".chunk", model, stop))
    if usage:
        events += _chunk(_FRAME % (b".chunk", model, counts))
    return events + _chunk(b"[DONE]") + b"0\r\n\r\n"


class _Wheel:
    """Calls each stream's `tick` once in `slots` turns of one millisecond."""

    def __init__(self, slots: int) -> None:
        self._slots: list[set[_Connection]] = [set() for _ in range(slots)]
        self._turn = 0

    def add(self, stream: _Connection) -> set[_Connection]:
        """Put `stream` into the emptiest slot, so that writes are spread evenly."""
        slot = min(self._slots, key=len)
        slot.add(stream)
        return slot

    async def run(self) -> None:
        """Turn for ever; a late turn is made up for, so that the pace is kept."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += SLOT
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._turn = (self._turn + 1) % len(self._slots)
            for stream in tuple(self._slots[self._turn]):
                stream.tick()


class _Connection(asyncio.Protocol):
    """One client's connection: whole requests in, canned answers out."""

    def __init__(self, wheel: _Wheel, chunks: int) -> None:
        self._wheel = wheel
        self._chunks = chunks
        self._unread = b""
        self._left = 0
        self._slot: set[_Connection] | None = None
        self._model = b""
        self._usage = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._unread, 0, end)
            size = end + 4 + (int(length.group(1)) if length else 0)
            if len(self._unread) < size:
                return
            request, self._unread = self._unread[:size], self._unread[size:]
            self._reply(request, end)

    def _reply(self, request: bytes, end: int) -> None:
        if request.startswith(b"GET "):
            path = request.split(b" ", 2)[1]
            models = b'{"object":"list","data":[{"id":"%b","object":"model"}]}' % MODEL.encode()
            found = {b"/health": b"{}", b"/v1/models": models, b"/version": b'{"version":"0.32.0"}'}
            body = found.get(path)
            status = b"200 OK" if body is not None else b"404 Not Found"
            body = body or b'{"detail":"Not Found"}'
            self._transport.write(_PLAIN % (status, len(body), body))
            return
        asked = _MODEL.search(request, end)
        self._model = asked.group(1) if asked else MODEL.encode()
        if _STREAM.search(request, end):
            self._usage = _USAGE.search(request, end) is not None
            self._left = self._chunks
            self._transport.write(_STREAM_HEAD)
            self._slot = self._wheel.add(self)
        else:
            self._transport.write(_answer(self._model))

    def tick(self) -> None:
        """Write the next piece of the stream, or its end."""
        if self._left:
            self._left -= 1
            self._transport.write(_piece(self._model))
        else:
            self._stop()
            self._transport.write(_ending(self._model, self._usage))

    def _stop(self) -> None:
        if self._slot is not None:
            self._slot.discard(self)
            self._slot = None


async def _serve(port: int, chunks: int, interval_ms: int) -> None:
    wheel = _Wheel(interval_ms)
    loop = asyncio.get_running_loop()
    # 4096: a thousand connections may arrive at once, more than the usual backlog of 100.
    await loop.create_server(lambda: _Connection(wheel, chunks), "127.0.0.1", port, backlog=4096)
    await wheel.run()


def main() -> None:
    """Serve until killed."""
    port, chunks, interval_ms = (int(argument) for argument in sys.argv[1:4])
    uvloop.run(_serve(port, chunks, interval_ms))


if __name__ == "__main__":
    main()
