"""What a fault does to a call: each is a name, what is done to a call, and what may come of it.

`Kind` is the promise. A harmless oddity costs nothing. A failure is heard before the client has
seen a byte, or in the middle of a stream: the first must not be seen while anything else can
answer, the second must be told. Where a backend lies so that nobody could know, the lie is passed
on, and the row says so.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tests.faults.proxy import Answer, Fault, Passing, chunk, head

LATE = 0.25
"""Seconds of latency: much, and less than any limit."""
DRIP = 0.02
"""Seconds from one byte to the next of a backend that drips: a head alone takes longer than the
limit on silence."""
SOAK_IN = 0.03
"""Seconds from the last bytes to a break, so that they are mostly read before it."""
ENDLESS = 0.03
"""Seconds from one event to the next of a stream that has no end."""


class Kind(StrEnum):
    """What is promised of an answer that was hit."""

    HARMLESS = "the answer, as if nothing were"
    BEFORE = "another backend's answer; an honest error if there is none"
    WITHIN = "another backend's answer before the first byte; an honest end after it"
    LIE = "passed on as it came: nobody can tell"


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault."""

    what: str
    kind: Kind
    fault: Fault
    waits: bool = False
    """Whether a limit on time must strike."""
    endless: bool = False
    """Whether it goes on with words that nobody has thought of."""
    mute: bool = False
    """Whether a connection may end without a byte: if it was kept, each call on it is made once
    more, since most likely it had been closed before."""


# ------------------------------------------------------------------------------------- cut answers


def cut_at(place: Callable[[Answer], int], end: str) -> Fault:
    """The backend's own answer up to this place, and then this end."""

    async def fault(call: Passing) -> None:
        answer = await call.answer()
        if at := place(answer):
            await call.send(answer.wire[:at])
            await asyncio.sleep(SOAK_IN)
        await ends(call, end)

    return fault


async def ends(call: Passing, end: str) -> None:
    """The end of a connection: reset, closed, or silent for ever."""
    match end:
        case "reset":
            call.reset()
        case "close":
            call.hang_up()
        case _:
            await call.silence()


def in_body(answer: Answer, share: float) -> int:
    """This far into the body, and never on the border of an event."""
    size = len(answer.wire) - len(answer.head)
    return len(answer.head) + max(int(size * share), 8)


def before_done(answer: Answer) -> int:
    """Everything but the stream's `[DONE]`; of another answer all but its last bytes."""
    at = answer.wire.rfind(b"data: [DONE]")
    return at if at > 0 else len(answer.wire) - 12


PLACES: Mapping[str, tuple[Callable[[Answer], int], Kind]] = {
    "at once": (lambda _: 0, Kind.BEFORE),
    "in the status line": (lambda _: 7, Kind.BEFORE),
    "in the headers": (lambda answer: len(answer.head) - 9, Kind.BEFORE),
    "after the head": (lambda answer: len(answer.head), Kind.BEFORE),
    "in the first piece": (lambda answer: len(answer.head) + 20, Kind.BEFORE),
    "a quarter in": (lambda answer: in_body(answer, 0.25), Kind.WITHIN),
    "in the middle": (lambda answer: in_body(answer, 0.5), Kind.WITHIN),
    "near the end": (lambda answer: in_body(answer, 0.9), Kind.WITHIN),
    "before [DONE]": (before_done, Kind.WITHIN),
}
"""Where an answer breaks off."""


# ------------------------------------------------------------------------------------ other answers


def says(*data: bytes, end: str = "close") -> Fault:
    """These bytes, whatever they are, and the end of the connection."""

    async def fault(call: Passing) -> None:
        for piece in data:
            await call.send(piece)
        await ends(call, end)

    return fault


def refuses(status: int, *lines: str, body: bytes = b'{"error": {"message": "no"}}') -> Fault:
    """An error in good form, on a connection that is kept."""
    told = ["content-type: application/json", f"content-length: {len(body)}", *lines]
    answer = head(status, *told) + body

    async def fault(call: Passing) -> None:
        await call.send(answer)

    return fault


def altered(wire: Callable[[Answer], bytes], end: str = "close") -> Fault:
    """The backend's own answer, sent in another form."""

    async def fault(call: Passing) -> None:
        await call.send(wire(await call.answer()))
        await asyncio.sleep(SOAK_IN)
        await ends(call, end)

    return fault


def pieces(change: Callable[[list[bytes]], list[bytes]]) -> Fault:
    """The backend's own pieces, changed, in good form."""

    async def fault(call: Passing) -> None:
        answer = await call.answer()
        await call.send(answer.head)
        for piece in change(events(answer.body)):
            await call.send(chunk(piece))
        await call.send(b"0\r\n\r\n")

    return fault


def events(body: bytes) -> list[bytes]:
    """The events of a stream; a whole answer is one piece."""
    if not body.startswith((b"data:", b":")):
        return [body]
    return [event + b"\n\n" for event in body.split(b"\n\n") if event]


def with_length(answer: Answer, more: int) -> bytes:
    """The answer with a content-length that is so many bytes off."""
    length = f"content-length: {len(answer.body) + more}"
    return head(answer.status, f"content-type: {answer.kind}", length) + answer.body


def as_http_1_0(answer: Answer) -> bytes:
    """HTTP as it was: the end of the connection is the end of the answer."""
    return b"HTTP/1.0 200 OK\r\ncontent-type: %b\r\n\r\n" % answer.kind.encode() + answer.body


def zipped(answer: Answer) -> bytes:
    """Compressed, which nobody asked for."""
    body = gzip.compress(answer.body)
    lines = [f"content-type: {answer.kind}", "content-encoding: gzip"]
    return head(200, *lines, f"content-length: {len(body)}") + body


def with_garbage(garbage: bytes, at: int) -> Callable[[list[bytes]], list[bytes]]:
    """An event of garbage among the others; a whole answer becomes garbage."""

    def change(said: list[bytes]) -> list[bytes]:
        if len(said) == 1:
            return [b'{"' + garbage + said[0][:20]]
        return [*said[:at], b"data: " + garbage + b"\n\n", *said[at:]]

    return change


def doubled(said: list[bytes]) -> list[bytes]:
    """Every event twice."""
    return [event for event in said for _ in range(2)] if len(said) > 1 else said


def swapped(said: list[bytes]) -> list[bytes]:
    """Two events in the middle change places."""
    at = len(said) // 2
    return [*said[: at - 1], said[at], said[at - 1], *said[at + 1 :]] if at > 1 else said


def done_twice(said: list[bytes]) -> list[bytes]:
    """It is over twice."""
    return [*said, said[-1]] if len(said) > 1 else said


def errs(at: int) -> Callable[[list[bytes]], list[bytes]]:
    """An error inside a 200, as vLLM sends one, after so many events."""
    error = json.dumps({"error": {"message": "engine died", "code": 500}}).encode()

    def change(said: list[bytes]) -> list[bytes]:
        return [*said[:at], b"data: " + error + b"\n\n", said[-1]] if len(said) > 1 else [error]

    return change


async def late(call: Passing) -> None:
    """Latency before the answer."""
    await asyncio.sleep(LATE)
    await call.pass_on()


async def haltingly(call: Passing) -> None:
    """Latency within it."""
    answer = await call.answer()
    for at in range(0, len(answer.wire), size := max(len(answer.wire) // 5, 1)):
        await call.send(answer.wire[at : at + size])
        await asyncio.sleep(LATE / 5)


async def drips_the_head(call: Passing) -> None:
    """One byte at a time, and the head never ends."""
    await call.send(b"HTTP/1.1 200 OK\r\nx-slow: ")
    while not call.gone.is_set():
        await call.send(b"a")
        await asyncio.sleep(DRIP)


async def drips_the_first_event(call: Passing) -> None:
    """A head, and then one byte at a time of an answer that never gets to say anything."""
    kind = "text/event-stream" if call.streams else "application/json"
    await call.send(head(200, f"content-type: {kind}", "transfer-encoding: chunked"))
    while not call.gone.is_set():
        await call.send(chunk(b" "))
        await asyncio.sleep(DRIP)


async def drips_later(call: Passing) -> None:
    """The first half as it should be, and then one byte at a time of an event without end."""
    answer = await call.answer()
    said = events(answer.body)
    await call.send(answer.head)
    for piece in said[: len(said) // 2]:
        await call.send(chunk(piece))
    await call.send(chunk(b"data: " if len(said) > 1 else b"{"))
    while not call.gone.is_set():
        await call.send(chunk(b" "))
        await asyncio.sleep(DRIP)


async def never_ends(call: Passing) -> None:
    """The same word for ever; a whole answer that goes on and on."""
    answer = await call.answer()
    said = events(answer.body)
    again = said[len(said) // 2] if len(said) > 1 else b" " * 1000
    await call.send(answer.head)
    if len(said) > 1:
        await call.send(chunk(said[0]))
    while not call.gone.is_set():
        await call.send(chunk(again))
        await asyncio.sleep(ENDLESS)


async def never_ends_a_comment(call: Passing) -> None:
    """Keep-alives for ever, and no answer."""
    kind = "text/event-stream" if call.streams else "application/json"
    await call.send(head(200, f"content-type: {kind}", "transfer-encoding: chunked"))
    while not call.gone.is_set():
        await call.send(chunk(b": still here\n\n" if call.streams else b"\n"))
        await asyncio.sleep(DRIP)


async def closes_after(call: Passing) -> None:
    """All as it should be, and then the connection, which was to be kept, is closed."""
    await call.pass_on()
    call.hang_up()
