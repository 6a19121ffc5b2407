"""Server-sent events as bytes: cutting a stream into whole events, reading one, writing one.

Pure and stateful only in `Cutter`. A stream may be cut anywhere by the network, in the middle of a
character or between CR and LF; half an event is held back until its other half arrives, so that
what a client gets is always a whole number of events, whatever happens upstream afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\r?\n|\r\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LONGEST_BOUNDARY = 4

_PLAIN = b"data: "

DONE = b"data: [DONE]\n\n"


class EventTooLargeError(Exception):
    """An event grew past the limit without ending."""


class Cutter:
    """Feeds on bytes, gives back whole events; at most `limit` bytes of a part are held."""

    __slots__ = ("_limit", "_tail")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail = bytearray()

    def feed(self, data: bytes) -> bytes:
        """All events that are complete now, as they came; empty if there is none yet.

        No bytes at all mean that the stream has ended: `EOFError`. `EventTooLargeError` if what is
        held outgrows the limit.
        """
        if not data:
            raise EOFError
        if not self._tail and data.endswith(b"\n\n"):
            return data
        search_from = max(len(self._tail) - _LONGEST_BOUNDARY, 0)
        self._tail += data
        cut = last_boundary(self._tail, search_from)
        if len(self._tail) - cut > self._limit:
            raise EventTooLargeError
        whole = bytes(self._tail[:cut])
        del self._tail[:cut]
        return whole

    @property
    def pending(self) -> bool:
        """Whether half an event is held."""
        return bool(self._tail.strip())


def last_boundary(data: bytes | bytearray, start: int = 0) -> int:
    """Where the last complete event ends in `data` (0: nowhere)."""
    cut = 0
    for boundary in _BOUNDARY.finditer(data, start):
        cut = boundary.end()
    return cut


class SseEvent(NamedTuple):
    """One event; `name` is empty where the stream names none, `data` has its lines joined."""

    name: str
    data: bytes


def read(block: bytes) -> Iterator[SseEvent]:
    """The events in a block of whole ones; comments and unknown fields are passed over."""
    one_line = block.find(b"\n") == len(block) - 2 and block.endswith(b"\n")
    if one_line and block.startswith(_PLAIN) and b"\r" not in block:
        yield SseEvent("", block[len(_PLAIN) : -2])  # one line of data, as nearly all tokens are
        return
    for raw in _BOUNDARY.split(block):
        name, data = "", []
        for line in _LINE_END.split(raw):
            field, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value.decode(errors="replace")
        if data:
            yield SseEvent(name, b"\n".join(data))


def blocks(block: bytes) -> Iterator[bytes]:
    """The same events as bytes, each with its own ending."""
    at = 0
    for boundary in _BOUNDARY.finditer(block):
        yield block[at : boundary.end()]
        at = boundary.end()


def event(data: bytes, name: str = "") -> bytes:
    """One event on the wire; `data` must be a single line, as JSON is."""
    return (b"event: %s\ndata: %s\n\n" % (name.encode(), data)) if name else b"data: %s\n\n" % data


def comment(text: str) -> bytes:
    """A line that clients ignore; it keeps a silent connection open, or tells the curious."""
    return b": %s\n\n" % text.replace("\n", " ").encode()
