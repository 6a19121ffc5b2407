"""A connection to one of the listeners: uvicorn's own, with bounds on what a stranger may take.

A head has at most `HEAD` bytes: uvicorn keeps and copies all of one, however long. And what was
begun must go on: a request of which less than `LEAST` bytes have come in `PERIOD` seconds is broken
off, and so is a connection on which nothing was ever asked. While nobody reads (a request that
waits behind another) nothing is missed.

It knows bytes and times, and nothing of what is asked. A request that comes in one piece, as most
do, costs a few comparisons.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD = 64 * 1024
"""Bytes of a request's first line and its headers; other servers take 8 to 64 KiB. What comes with
the head's last piece is not counted, so a little more may pass."""
PERIOD = 30.0
"""Seconds."""
LEAST = 64 * 1024
"""Bytes in such a period: some 2 KiB a second, less than any link that somebody works over."""


class Connection(HttpToolsProtocol):
    """One client's connection."""

    _came = 0
    _counted = 0
    _asked = False
    _in_head = True
    _inside = True
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        self._came += len(data)
        fresh = not self._in_head
        super().data_received(data)
        if self._in_head:
            self._counted = 0 if fresh else self._counted + len(data)
            if self._counted > HEAD:
                self._refuse(431, f"The headers are longer than {HEAD} bytes.")
                return
        if not self._inside:
            self._disarm()
        elif self._late is None and not self.transport.is_closing():
            self._arm()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_head = self._inside = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._in_head = False
        self._asked = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._inside = False
        super().on_message_complete()

    def _arm(self) -> None:
        self._late = self.loop.call_later(PERIOD, self._look, self._came)

    def _disarm(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _look(self, came: int) -> None:
        if self._came - came < LEAST and not self.flow.read_paused:
            self._late = None
            self._refuse(408, "The request did not come to its end.")
        else:
            self._arm()

    def _nothing_said(self) -> bool:
        """Whether a word would be taken for the answer to what was begun."""
        if self._in_head:
            return not self._asked or self.cycle.response_complete
        return not self.cycle.response_started

    def _refuse(self, status: int, why: str) -> None:
        """Hang up; with a word, if no answer has been begun."""
        self._disarm()
        if self.transport.is_closing():
            return
        if self._nothing_said():
            head = b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % len(why) + why.encode())
        self.transport.close()
