"""Events on the wire: however a stream is cut, the same events come out, and never half of one."""

from __future__ import annotations

from itertools import pairwise
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import sse
from router.sse import Cutter, EventTooLargeError, SseEvent, blocks, read

LIMIT = 1 << 20
LINES = st.one_of(
    st.builds("data: {}".format, st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))),
    st.sampled_from(["data:x", "data", "data: [DONE]", "event: error", ": ping", "id: 7", "é: 🚲"]),
)
EVENTS = st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=6)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def expected(events: list[list[str]]) -> list[SseEvent]:
    """What the events say, by the letter of the standard (WHATWG HTML, 9.2.6)."""
    found = []
    for lines in events:
        name, data = "", []
        for line in lines:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
        if data:
            found.append(SseEvent(name, "\n".join(data).encode()))
    return found


def stream(events: list[list[str]], end: str) -> bytes:
    return "".join(end.join([*lines, "", ""]) for lines in events).encode()


def fed(cutter: Cutter, data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [cutter.feed(data[start:end]) for start, end in pairwise(places)]


@given(EVENTS, ENDS, st.lists(st.integers(0, 1000)))
def test_any_cut_gives_the_same_events(events: list[list[str]], end: str, cuts: list[int]) -> None:
    data = stream(events, end)
    cutter = Cutter(LIMIT)
    parts = fed(cutter, data, cuts)
    assert b"".join(parts) == data
    assert not cutter.pending
    assert [event for part in parts for event in read(part)] == expected(events)


@given(EVENTS, ENDS, st.lists(st.integers(0, 1000)), st.integers(1, 1000))
def test_half_an_event_is_never_given(
    events: list[list[str]], end: str, cuts: list[int], lost: int
) -> None:
    """The stream breaks off: what came before the break is a number of whole events."""
    data = stream(events, end)
    parts = fed(Cutter(LIMIT), data[: max(len(data) - lost, 0)], cuts)
    whole = [event for part in parts for event in read(part)]
    assert whole == expected(events)[: len(whole)]


@given(EVENTS, ENDS)
def test_one_byte_at_a_time_gives_whole_events(events: list[list[str]], end: str) -> None:
    data, cutter = stream(events, end), Cutter(LIMIT)
    parts = [cutter.feed(data[at : at + 1]) for at in range(len(data))]
    for part in filter(None, parts):
        assert part.endswith((b"\n\n", b"\n\r\n", b"\r\r"))
    assert [event for part in parts for event in read(part)] == expected(events)


@given(EVENTS, ENDS)
def test_blocks_are_the_same_bytes_one_event_each(events: list[list[str]], end: str) -> None:
    data = stream(events, end)
    assert b"".join(blocks(data)) == data
    assert len(list(blocks(data))) == len(events)


def test_bytes_one_at_a_time_take_linear_time() -> None:
    data = sse.event(b"x" * (LIMIT - 100))
    cutter = Cutter(LIMIT)
    began = process_time()
    parts = [cutter.feed(data[at : at + 1]) for at in range(len(data))]
    assert process_time() - began < 10  # about 1 s; looking at all that is held would take hours
    assert b"".join(parts) == data


def test_an_event_that_does_not_end_is_too_large() -> None:
    cutter = Cutter(100)
    cutter.feed(b"data: " + b"x" * 94)
    with pytest.raises(EventTooLargeError):
        cutter.feed(b"x")


def test_many_small_events_are_not_too_large() -> None:
    assert len(Cutter(100).feed(sse.event(b"x" * 50) * 10 + b"data")) == 580


def test_the_end_of_the_stream_is_told() -> None:
    with pytest.raises(EOFError):
        Cutter(100).feed(b"")


def test_half_an_event_is_pending() -> None:
    cutter = Cutter(100)
    assert cutter.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert cutter.pending
    assert cutter.feed(b"\n\n") == b"data: 2\n\n"
    assert not cutter.pending


@given(st.binary().filter(lambda data: b"\n" not in data and b"\r" not in data))
def test_what_is_written_can_be_read(data: bytes) -> None:
    assert list(read(sse.event(data))) == [SseEvent("", data)]
    assert list(read(sse.event(data, "error"))) == [SseEvent("error", data)]


def test_a_comment_is_no_event_whatever_stands_in_it() -> None:
    assert list(read(sse.comment("data: 1\n\ndata: 2"))) == []
