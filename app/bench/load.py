"""The load generator: `python -m app.bench.load PLAN`, a process of its own on a core of its own.

Raw protocol on uvloop, because a client library would cost as much as the proxy that it measures.
Closed loop by default: every connection sends its next request when the last answer is complete.
With a `rate` it is an open loop: requests fall due by the clock whatever has come back, and latency
counts from when a request was due, so that a stalled server cannot hide its queue.

Prints one line when the warm-up is over and one with the result at the end; both JSON. SIGTERM ends
it early, with a result. Knows HTTP's framing and nothing of any gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections import Counter, deque
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import cast

import uvloop

__all__ = ["Plan", "Result", "main", "request_bytes"]

PROMPT_BYTES = 1024
"""Size of a request's body: a short chat."""

END = b"\r\n0\r\n\r\n"
"""How a chunked body ends: the last line of data and the empty chunk."""

GOOD = b"HTTP/1.1 200"

REPLACE_SECONDS = 0.05
"""Pause before a lost connection is replaced: a dead server must not become a busy loop."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REVISION = re.compile(rb"\r\nx-tandem-revision: *(\S+)", re.IGNORECASE)
_MARK = re.compile(rb'"content": ?"([\w-]+) ')


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send to 127.0.0.1:`port` and for how long.

    `warmup` and `seconds` in seconds, the first is not counted; `rate` in requests/s, 0 for a
    closed loop. `collect` keeps from each answer its revision header and the models that its
    contents name.
    """

    port: int
    connections: int
    seconds: float
    stream: bool = False
    warmup: float = 0.5
    rate: float = 0.0
    model: str = "bench"
    key: str = ""
    collect: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came back within `seconds`: whole answers, streamed events, latencies in ms.

    `complaint` says what the first failure was.
    """

    answers: int
    chunks: int
    errors: int
    seconds: float
    p50: float
    p99: float
    marks: dict[str, int]
    complaint: str


def request_bytes(plan: Plan) -> bytes:
    """The one request that is sent again and again."""
    body = {
        "model": plan.model,
        "messages": [{"role": "user", "content": ""}],
        "max_tokens": 64,
        "stream": plan.stream,
    }
    bare = len(json.dumps(body))
    body["messages"] = [{"role": "user", "content": "y" * (PROMPT_BYTES - bare)}]
    data = json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: 127.0.0.1:{plan.port}",
        "content-type: application/json",
        f"content-length: {len(data)}",
    ]
    if plan.key:
        lines.append(f"authorization: Bearer {plan.key}")
    return "\r\n".join([*lines, "", ""]).encode() + data


class _Load:
    """All connections of one plan, and what they count."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.request = request_bytes(plan)
        self.latencies: list[float] = []
        self.marks: Counter[str] = Counter()
        self.chunks = 0
        self.errors = 0
        self.running = True
        self.complaint = ""
        self._idle: deque[_Connection] = deque()
        self._due: deque[float] = deque()
        self._replacements: set[asyncio.Task[None]] = set()

    def ready(self, connection: _Connection) -> None:
        """A connection can take a request: the next one that is due, or at once."""
        if not self.running:
            return
        if not self.plan.rate:
            connection.send(perf_counter())
        elif self._due:
            connection.send(self._due.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection, busy: bool, why: str) -> None:
        """A connection is gone: an error if an answer was under way. It is replaced."""
        if self.running:
            if busy:
                self.failed(f"hung up in the middle of an answer: {why}")
            if connection in self._idle:
                self._idle.remove(connection)
            self._replacements.add(task := asyncio.create_task(self._replace()))
            task.add_done_callback(self._replacements.discard)

    def failed(self, complaint: str) -> None:
        """Count a failure; the first one is remembered."""
        self.errors += 1
        self.complaint = self.complaint or complaint

    async def _replace(self) -> None:
        await asyncio.sleep(REPLACE_SECONDS)
        await self.connect()

    async def connect(self) -> None:
        """Open one connection; it reports itself as ready."""
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self.plan.port)
        except OSError as error:
            self.failed(f"no connection: {error}")

    async def arrivals(self) -> None:
        """The open loop's clock."""
        start = perf_counter()
        number = 0
        while self.running:
            due = start + number / self.plan.rate
            await asyncio.sleep(max(0.0, due - perf_counter()))
            number += 1
            if self._idle:
                self._idle.popleft().send(due)
            else:
                self._due.append(due)

    async def run(self) -> Result:
        """Warm up, measure, report."""
        clock = asyncio.get_running_loop().create_task(self.arrivals()) if self.plan.rate else None
        await asyncio.gather(*(self.connect() for _ in range(self.plan.connections)))
        await asyncio.sleep(self.plan.warmup)
        self.latencies.clear()
        self.marks.clear()
        chunks, errors, start = self.chunks, self.errors, perf_counter()
        print(json.dumps({"measuring": True}), flush=True)
        await self._until_told_or_over()
        seconds = perf_counter() - start
        self.running = False
        if clock is not None:
            clock.cancel()
        ordered = sorted(self.latencies) or [0.0]
        return Result(
            answers=len(self.latencies),
            chunks=self.chunks - chunks,
            errors=self.errors - errors,
            seconds=seconds,
            p50=1e3 * ordered[len(ordered) // 2],
            p99=1e3 * ordered[int(len(ordered) * 0.99)],
            marks=dict(self.marks),
            complaint=self.complaint,
        )

    async def _until_told_or_over(self) -> None:
        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(told.wait(), self.plan.seconds)


class _Connection(asyncio.Protocol):
    """One keep-alive connection: sends the request, reads the answer to its end, reports."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._busy = False
        self._head = b""
        self._body = bytearray()
        self._since = 0.0
        self._left = 0
        self._chunked = False
        self._tail = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._load.ready(self)

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"{exc or 'closed'} after {perf_counter() - self._since:.1f} s, head {self._head!r}"
        self._load.lost(self, self._busy, why)

    def send(self, since: float) -> None:
        """Send the request; its latency counts from `since`."""
        self._busy, self._head, self._since = True, b"", since
        self._body.clear()
        self._left = -1
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            data, self._head = self._head[end + 4 :], self._head[:end]
            self._begin()
        if self._load.plan.collect or not self._head.startswith(GOOD):
            self._body += data
        if self._chunked:
            self._load.chunks += data.count(b"data: {")
            self._tail = (self._tail + data)[-len(END) :]
            complete = self._tail == END
        else:
            self._left -= len(data)
            complete = self._left <= 0
        if complete:
            self._complete()

    def _begin(self) -> None:
        length = _LENGTH.search(self._head)
        self._chunked = length is None
        self._left = int(length.group(1)) if length else 0
        self._tail = b"\r\n"

    def _complete(self) -> None:
        load = self._load
        self._busy = False
        if self._head.startswith(GOOD):
            load.latencies.append(perf_counter() - self._since)
        else:
            load.failed(f"{self._head!r} {bytes(self._body[:300])!r}")
        if load.plan.collect:
            revision = _REVISION.search(self._head)
            marks = sorted({mark.decode() for mark in _MARK.findall(bytes(self._body))})
            load.marks[f"{revision.group(1).decode() if revision else ''}:{','.join(marks)}"] += 1
        load.ready(self)


def main() -> None:
    """Run the plan given as JSON and print its result as JSON."""
    plan = Plan(**json.loads(sys.argv[1]))
    result = uvloop.run(_Load(plan).run())
    print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
