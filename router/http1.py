"""HTTP/1.1 to a backend: POST a body, read the answer as it arrives, hang up at any moment.

What a gateway asks of a client is little (no redirects, cookies, proxies, decompression, retries),
and what it must know a library hides: whether a connection that broke had been kept from an earlier
exchange, and that an answer's framing is wrong. Parsing is `httptools`, the parser that uvicorn
uses on the other side; connecting, TLS and name lookups are the event loop's. It knows no backends,
no faults and no waiting limit but the one on connecting. Decision 0001 has the measurement.

Two rules. An `Exchange` is one request and its answer, a `Connection` carries one exchange at a
time, and the moment the answer is complete they part: no late `close` can hit another's exchange.
A connection is kept only if it is certain that both sides agree where the answer ended.
"""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

LONGEST_HEAD = 65_536
"""Bytes of an answer's head, interim answers included; what uvicorn allows a request."""
UNREAD = 262_144
"""Bytes of an answer that are held unread; then the backend has to wait. One read of uvloop's."""
PIECE = 65_536
"""Bytes of a body that are written at once, the first together with the head: asyncio's and
uvloop's own limit, above which a transport says that it cannot keep up."""
FINAL = 200
"""Below this status an answer is interim (103 Early Hints), and the real one follows."""


class HttpError(Exception):
    """An exchange failed below the level of HTTP statuses."""


class ConnectError(HttpError):
    """No connection could be made: refused, unreachable, or no such name."""


class ConnectTimeoutError(ConnectError):
    """No connection was made in time."""


class ExhaustedError(ConnectError):
    """No connection could be made for want of descriptors, ports or memory here: no fault of the
    other side's.
    """


class TlsError(ConnectError):
    """Somebody accepted the connection, but TLS failed: most often the certificate."""


class HungUpError(HttpError):
    """The connection ended before the answer was complete."""


class StaleError(HungUpError):
    """A kept connection ended before the first byte of an answer: most likely it had been closed
    before the request arrived, and no answer to it can have been seen.
    """


class MalformedError(HttpError):
    """What the backend sent is not HTTP."""


class Exchange:
    """One request and its answer, whose body is to be read. `kind`: the media type, lower-case."""

    __slots__ = (
        "_framed", "_head", "_loop", "_parts", "_size", "_waiter",
        "complete", "connection", "error", "keep", "kind", "parser", "sent", "status",
    )  # fmt: skip

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self.connection: Connection | None = connection
        self.parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self.status = 0
        self.kind = ""
        self.complete = self.keep = self.sent = False
        self.error: HttpError | None = None
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._parts: list[bytes] = []
        self._size = self._head = 0
        self._framed = False

    # ----------------------------------------------------------------- what the caller does

    async def read(self) -> bytes:
        """Whatever has arrived, at once; empty at the end. One reader at a time.

        Raises `HttpError` if the answer cannot be completed, after all of it that arrived.
        """
        while not self._parts:
            if self.complete:
                return b""
            await self.changed()
        parts, self._parts, self._size = self._parts, [], 0
        if self.connection:
            self.connection.resume()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Hang up if the answer is not complete. Never waits; again does nothing."""
        if connection := self.connection:
            connection.fail(HungUpError("the exchange was closed here"))

    # ------------------------------------------------------------- what the connection does

    async def changed(self) -> None:
        """Wait until something happened. Raises `HttpError` once nothing more can."""
        if self.error:
            raise self.error
        if self._waiter:
            raise RuntimeError("an exchange has one reader at a time")
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def part(self, error: HttpError | None) -> None:
        """The connection carries this exchange no more; with an error, before its end."""
        self.connection = self.parser = None  # the parser knows this exchange: no cycle is left
        self.error = error
        self.wake()

    def wake(self) -> None:
        """Something happened."""
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def crowded(self) -> bool:
        """Whether enough waits to be read."""
        return self._size > UNREAD

    def ends(self) -> bool:
        """Whether the end of the connection is the end of the answer; then it is complete."""
        self.complete = bool(self.status) and not self._framed
        return self.complete

    # ----------------------------------------------------------------- what the parser says

    def on_message_begin(self) -> None:
        """An answer begins: the first, the one after an interim one, or one that nobody wants."""
        if self.complete:
            raise MalformedError("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or a trailer, which says nothing here."""
        self._head += len(name) + len(value)
        if self._head > LONGEST_HEAD:
            raise MalformedError(f"the head is longer than {LONGEST_HEAD} bytes")
        if self.status:
            return
        lower = name.lower()
        if lower == b"content-type":
            self.kind = value.decode("latin-1").partition(";")[0].strip().lower()
        elif lower == b"content-length":
            self._framed = True
        elif lower == b"transfer-encoding":
            self._framed = value.rstrip().lower().endswith(b"chunked")

    def on_headers_complete(self) -> None:
        """The head is complete."""
        status = self.parser.get_status_code() if self.parser else 0
        if status >= FINAL:
            self.status = status
        else:  # what an interim answer says of itself is not said of the real one
            self.kind, self._framed = "", False

    def on_body(self, body: bytes) -> None:
        """A piece of the body, without its framing."""
        self._parts.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        """The answer is complete, unless it was an interim one."""
        if self.status and self.parser:
            self.complete = True
            self.keep = self.parser.should_keep_alive()


class Connection(asyncio.Protocol):
    """One connection to an origin, and the exchange that it carries, if any."""

    def __init__(
        self,
        idle: dict[Connection, None],
        opened: set[Connection],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.idle_since = 0.0
        self._idle = idle
        self._open = opened
        self._loop = loop
        self._exchange: Exchange | None = None
        self._received = 0
        self._used = self._deaf = self._full = False

    @property
    def closing(self) -> bool:
        """Whether it has ended or is about to."""
        return self._transport.is_closing()

    async def carry(self, head: bytes, body: bytes) -> Exchange:
        """Send a request and wait for the head of its answer. Raises `HttpError`."""
        exchange = self._exchange = Exchange(self, self._loop)
        self._received = 0
        try:
            if len(body) <= PIECE:
                self._transport.write(head + body)
                exchange.sent = True
            else:
                await self._write(exchange, head, memoryview(body))
            while not exchange.status:
                await exchange.changed()
        except BaseException:
            exchange.close()
            raise
        return exchange

    async def _write(self, exchange: Exchange, head: bytes, body: memoryview) -> None:
        """Send a large body as fast as it is taken; not the rest of it, once it is answered."""
        self._transport.write(head)
        for start in range(0, len(body), PIECE):
            while self._full and not exchange.status:
                await exchange.changed()
            if exchange.status:
                return
            self._transport.write(body[start : start + PIECE])
        exchange.sent = True

    def resume(self) -> None:
        """There is room for more of the answer."""
        if self._deaf and not self._transport.is_closing():
            self._deaf = False
            self._transport.resume_reading()

    def fail(self, error: HttpError) -> None:
        """Close the connection, and end its exchange with an error."""
        if exchange := self._exchange:
            self._exchange = None
            exchange.part(error)
        self._idle.pop(self, None)
        self._transport.abort()

    def _free(self, exchange: Exchange) -> None:
        self._exchange = None
        whole = exchange.keep and exchange.sent and not self._transport.get_write_buffer_size()
        exchange.part(None)
        if whole and not self._transport.is_closing():
            self.resume()
            self._used = True
            self.idle_since = self._loop.time()
            self._idle[self] = None
        else:
            self._transport.abort()

    # ----------------------------------------------------------------- what the socket does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        """Some bytes, cut anywhere."""
        exchange = self._exchange
        if exchange is None or exchange.parser is None:
            self.fail(MalformedError("nobody has asked"))
            return
        if not exchange.status:
            self._received += len(data)
        try:
            exchange.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._misread(exchange, error)
            return
        if exchange.complete:
            self._free(exchange)
        elif exchange.status:
            if exchange.crowded and not self._deaf:
                self._deaf = True
                self._transport.pause_reading()
            exchange.wake()
        elif self._received > LONGEST_HEAD:
            self.fail(MalformedError(f"the head is longer than {LONGEST_HEAD} bytes"))

    def _misread(self, exchange: Exchange, error: Exception) -> None:
        """What follows a complete answer does not harm it, but its connection is not kept."""
        if exchange.complete:
            exchange.keep = False
            self._free(exchange)
        elif isinstance(error, httptools.HttpParserUpgrade):
            self.fail(MalformedError("the backend changes to another protocol"))
        else:
            self.fail(MalformedError(str(error.__context__ or error)))

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by either side."""
        self._open.discard(self)
        exchange = self._exchange
        if exchange and exc is None and exchange.ends():
            self._free(exchange)
        elif exchange and self._used and not self._received:
            self.fail(StaleError("the connection had been closed"))
        else:
            self.fail(HungUpError(str(exc or "the connection was closed")))

    def pause_writing(self) -> None:
        """The backend does not take the request as fast as it comes."""
        self._full = True

    def resume_writing(self) -> None:
        """It does again."""
        self._full = False
        if self._exchange:
            self._exchange.wake()
