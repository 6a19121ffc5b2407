"""A client's connection: uvicorn's own, with the bounds that it lacks.

uvicorn closes a connection that is idle between two requests. But it waits for ever for one that
never finishes its request, or never reads on; it takes a head of any size, any number of requests
ahead of their answers, and trailers for headers; it forgets the request that is being answered
when a client that has sent a second one leaves, and loses the body behind an offer of HTTP/2, which
Java's client makes with every request. Here all of these have an end.

It sees bytes and times, no policy and no configuration: how patient to be is asked each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from router import errors
from router.faults import Blame, Fault

LONGEST_HEAD = 65_536
"""Bytes of a request's line and headers; nginx takes 32 KB by default."""
MOST_AHEAD = 64
"""Requests that a client may send ahead of their answers; no client library sends one."""
OFFER = frozenset({b"upgrade", b"connection", b"http2-settings"})
"""Headers of an offer to speak another protocol."""
SLOWEST = 10_000.0
"""Bytes of a body in a second, either way, beyond the patience that every client is given. Progress
within one write cannot be seen, so that it is a matter of size alone."""


class RefusedError(Exception):
    """The parser is told to stop; what to answer is `Connection`'s to know."""


class Connection(HttpToolsProtocol):
    """One connection. `patience` gives the seconds that its client may take, as configured now."""

    def __init__(self, *, patience: Callable[[], float], **made: Any) -> None:
        super().__init__(**made)
        self._patience = patience
        self._in_head = self._reading = False
        self._since = 0.0
        self._received = self._unread = 0
        self._refusal = not_http()
        self._due: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """It is open: a request is due."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed; whoever answers hears of it, whatever was asked since."""
        self._relax()
        if self._stuck:
            self._stuck.cancel()
        answering, self._answering = self._answering, None
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if answering and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request, cut anywhere."""
        self._unset_keepalive_if_required()
        while data and not self.transport.is_closing():
            data = self._read(data)
        if self.transport.is_closing():
            return
        asked: RequestResponseCycle | None = (
            self.cycle
        )  # uvicorn's type hides that there may be none
        if self._reading or asked is None or asked.response_complete:
            self._expect()
        else:
            self._relax()

    def _read(self, data: bytes) -> bytes:
        """Have these parsed; gives back what must be parsed anew."""
        rest = b""
        self._unread += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            rest = self._without_offer() + data[offered.args[0] :]
            self._unread = 0
        except httptools.HttpParserError:
            self._refuse(self._refusal)
        if self._unread > LONGEST_HEAD:
            self._refuse(head_too_large())
        elif len(self.pipeline) > MOST_AHEAD:
            self.transport.abort()
        return rest

    # ------------------------------------------------------------------- what the parser says

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = self._reading = True
        self._since, self._received = self.loop.time(), 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; or a trailer, which nobody has asked for."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        self._in_head, self._unread = False, 0
        if sum(len(name) + len(value) for name, value in self.headers) > LONGEST_HEAD:
            self._refusal = head_too_large()
            raise RefusedError
        if self.parser.get_method() == b"CONNECT":
            raise RefusedError
        if self.parser.should_upgrade():
            return  # the parser stops here, without the body
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._unread = 0
        self._received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of it is here."""
        if self.parser.should_upgrade():
            return
        self._reading, self._unread = False, 0
        super().on_message_complete()

    def _without_offer(self) -> bytes:
        """The head of a request that offers another protocol, as if it did not: a server may pass
        the offer over. The parser cannot, and begins anew.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        head = b"%b %b HTTP/%b\r\n" % (method, self.url, version)
        kept = [line for line in self.headers if line[0] not in OFFER]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            kept.append((b"connection", b"close"))
        return head + b"".join(b"%b: %b\r\n" % line for line in kept) + b"\r\n"

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    # ----------------------------------------------------------------- a client that is slow

    def _expect(self) -> None:
        if self._due is None:
            self._due = self.loop.call_later(self._patience(), self._look)

    def _relax(self) -> None:
        if self._due:
            self._due.cancel()
            self._due = None

    def _look(self) -> None:
        """The rest of a request is due, unless it comes fast enough or has to wait for others."""
        self._due, now = None, self.loop.time()
        if self.flow.read_paused:
            self._since = now
        left = self._since + self._patience() + self._received / SLOWEST - now
        if left > 0:
            self._due = self.loop.call_later(left, self._look)
        elif self._reading:
            self._refuse(too_slow())
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than is written."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        if self._stuck:
            self._stuck.cancel()
            self._stuck = None

    def timeout_keep_alive_handler(self) -> None:
        """It asks nothing more; what it has not read yet need not wait for ever."""
        super().timeout_keep_alive_handler()
        self._watch_reader()

    def _watch_reader(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent and self._stuck is None:
            seconds = self._patience() + unsent / SLOWEST
            self._stuck = self.loop.call_later(seconds, self._look_at_reader, unsent)

    def _look_at_reader(self, before: int) -> None:
        self._stuck = None
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._watch_reader()

    # ------------------------------------------------------------------- what is not answered

    def _refuse(self, fault: Fault) -> None:
        """Say why, where nothing else is being said, and hang up."""
        if self.transport.is_closing():
            return
        answering = self._answering
        if answering and not answering.response_complete and answering.response_started:
            self.transport.abort()
            return
        if answering:
            answering.disconnected = True
            answering.message_event.set()
        body = errors.body_of(fault)
        head = f"HTTP/1.1 {fault.status} \r\ncontent-type: application/json\r\n"
        end = f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write((head + end).encode() + body)
        self.transport.close()


def head_too_large() -> Fault:
    """The line and the headers are longer than anybody needs."""
    message = f"the request's head is longer than {LONGEST_HEAD} bytes"
    return Fault(Blame.CLIENT, message, 431, "head_too_large")


def not_http() -> Fault:
    """The parser makes nothing of it."""
    return Fault(Blame.CLIENT, "this is no HTTP/1.1 request", 400, "invalid_http")


def too_slow() -> Fault:
    """The request does not come to its end."""
    message = "the request did not arrive in time (limits.client)"
    return Fault(Blame.CLIENT, message, 408, "client_timeout")
