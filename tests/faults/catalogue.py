"""All faults of a backend by their names, in the order of the table."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from tests.faults import injected as to
from tests.faults.injected import PLACES, Injected, Kind, cut_at
from tests.faults.proxy import head

OK = head(200, "content-type: application/json", "content-length: 2")
STREAM = head(200, "content-type: text/event-stream", "transfer-encoding: chunked")
DRAW = random.Random(6)
NOISE = bytes(DRAW.randrange(256) for _ in range(4096))
TLS_ALERT = bytes.fromhex("15030300020228")
HUGE = "x-huge: " + "a" * 100_000
MANY = [f"x-{number}: {'a' * 50}" for number in range(2_000)]
DEEP = b"[" * 100_000
BUSY = {"none": (), "2 s": ("retry-after: 2",), "absurd": ("retry-after: 99999999999999999999",),
        "a date": ("retry-after: Fri, 31 Dec 1999 23:59:59 GMT",)}  # fmt: skip


def _breaks() -> Iterator[tuple[str, Injected]]:
    for where, (place, kind) in PLACES.items():
        for end, how in {"reset": "the connection is reset", "close": "it is closed"}.items():
            mute, fault = where == "at once", cut_at(place, end)
            yield f"{end} {where}", Injected(f"{how} {where}", kind, fault, mute=mute)
    for where in ("at once", "after the head", "in the middle", "before [DONE]"):
        place, kind = PLACES[where]
        what = f"half-open: silence {where}, and no end of the connection"
        yield f"silence {where}", Injected(what, kind, cut_at(place, "silence"), waits=True)


def _slow() -> Iterator[tuple[str, Injected]]:
    yield "latency", Injected("0.25 s before the answer", Kind.HARMLESS, to.late)
    yield "halting", Injected("0.25 s spread over the answer", Kind.HARMLESS, to.haltingly)
    drips = "a byte every 20 ms"
    yield "slow head", Injected(f"{drips}, of the head", Kind.BEFORE, to.drips_the_head, waits=True)
    yield (
        "slow first event",
        Injected(f"{drips}, no event", Kind.BEFORE, to.drips_the_first_event, waits=True),
    )
    yield (
        "slow later event",
        Injected(f"{drips}, from the middle", Kind.WITHIN, to.drips_later, waits=True),
    )
    yield (
        "endless",
        Injected("no end of the answer", Kind.WITHIN, to.never_ends, waits=True, endless=True),
    )
    yield (
        "endless comments",
        Injected("keep-alives for ever", Kind.BEFORE, to.never_ends_a_comment, waits=True),
    )


def _refusals() -> Iterator[tuple[str, Injected]]:
    for status in (429, 503):
        for name, lines in BUSY.items():
            what = f"{status}, Retry-After: {name}"
            yield what, Injected(what, Kind.BEFORE, to.refuses(status, *lines))
    for status in (401, 408, 500, 502, 504, 599):
        yield str(status), Injected(f"{status}", Kind.BEFORE, to.refuses(status))
    page = to.refuses(500, body=b"<html>Internal Server Error</html>")
    yield "500, a page", Injected("500 with HTML", Kind.BEFORE, page)
    yield "500, nothing", Injected("500 without a body", Kind.BEFORE, to.refuses(500, body=b""))
    long = to.refuses(500, body=b'{"error": {"message": "' + b"x" * 5_000_000 + b'"}}')
    yield "500, 5 MB", Injected("500 with 5 MB of explanation", Kind.BEFORE, long)
    for status in (204, 302, 304):
        told = to.says(head(status, "location: http://127.0.0.1:1/", "content-length: 0"))
        yield str(status), Injected(f"{status} where an answer was due", Kind.BEFORE, told)


def _no_http() -> Iterator[tuple[str, Injected]]:
    said: Mapping[str, tuple[str, bytes]] = {
        "noise": ("4 KB of random bytes", NOISE),
        "zeros": ("4 KB of zero bytes", bytes(4096)),
        "TLS": ("a TLS alert", TLS_ALERT),
        "SSH": ("a greeting of SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
        "HTTP/0.9": ("a page without a head", b"<html>hello</html>"),
        "HTTP/2": ("frames of HTTP/2", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)),
        "a request": ("a request as an answer", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
        "status 99": ("a status that is none", b"HTTP/1.1 99 X\r\n\r\n"),
        "huge header": ("a header of 100 KB", head(200, HUGE) + b"{}"),
        "many headers": ("2,000 headers", head(200, *MANY) + b"{}"),
        "bad chunk": ("a chunk size that is no number", STREAM + b"zz\r\ndata: x\n\n\r\n"),
        "huge chunk": ("a chunk of 2^64 bytes", STREAM + b"ffffffffffffffff1\r\ndata: x\n\n"),
        "negative chunk": ("a chunk of -1 bytes", STREAM + b"-1\r\ndata: x\n\n\r\n"),
        "two lengths": ("two lengths", head(200, "content-length: 2", "content-length: 9") + b"{}"),
        "both framings": (
            "a length and chunks",
            head(200, "content-length: 2", "transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        ),
        "upgrade": ("another protocol", head(101, "upgrade: h2c", "connection: upgrade")),
    }
    for name, (what, data) in said.items():
        yield name, Injected(what, Kind.BEFORE, to.says(data))
    endless = to.says(*[head(103, "link: </a>") * 100] * 100, end="silence")
    yield "endless 103", Injected("interim answers for ever", Kind.BEFORE, endless)


def _lies() -> Iterator[tuple[str, Injected]]:
    garbage: Mapping[str, tuple[str, bytes]] = {
        "no JSON": ("no JSON", b"{{{"),
        "no UTF-8": ("bytes that are no UTF-8", b'{"choices": [{"\xff\xfe": 1}]}'),
        "zero bytes": ("zero bytes", bytes(64)),
        "another shape": ("JSON of another shape", b'{"choices": "x", "usage": [1]}'),
        "null": ("null", b"null"),
        "deep JSON": ("100,000 open brackets", DEEP),
        "odd choices": (
            "choices of odd kinds",
            b'{"choices": [null, 7, {"index": "a", "delta": 3}, {"index": 1e99, "delta": null}]}',
        ),
        "NUL and CR": ("a lone CR and NUL in an event", b'{"a": "\r\x00"}'),
    }
    for name, (what, data) in garbage.items():
        change = to.with_garbage(data, 3)
        yield f"garbage: {name}", Injected(f"an event of {what}", Kind.LIE, to.pieces(change))
    wide = to.with_garbage(b"x" * (2 << 20), 3)
    yield "event of 2 MB", Injected("an event of 2 MB", Kind.WITHIN, to.pieces(wide))
    first = to.pieces(to.errs(0))
    yield "error at once", Injected("an error inside a 200, at once", Kind.BEFORE, first)
    then = to.pieces(to.errs(5))
    yield "error later", Injected("an error inside a 200, after 5 events", Kind.WITHIN, then)
    yield "doubled", Injected("every event twice", Kind.LIE, to.pieces(to.doubled))
    yield "swapped", Injected("two events changed places", Kind.LIE, to.pieces(to.swapped))
    yield "two [DONE]", Injected("two ends", Kind.HARMLESS, to.pieces(to.done_twice))
    html = to.says(head(200, "content-type: text/html", "content-length: 2") + b"hi")
    yield "HTML", Injected("200 with HTML", Kind.BEFORE, html)
    bare = to.says(head(200, "content-length: 2") + b"{}")
    yield "no type", Injected("200 without a type", Kind.BEFORE, bare)


def _forms() -> Iterator[tuple[str, Injected]]:
    short = to.altered(lambda answer: to.with_length(answer, -40))
    yield "length too short", Injected("content-length 40 short", Kind.WITHIN, short)
    long = to.altered(lambda answer: to.with_length(answer, 40))
    yield "length too long", Injected("content-length 40 too long", Kind.WITHIN, long)
    cut = to.altered(
        lambda answer: answer.head + b"fffff\r\n" + answer.body[: len(answer.body) // 2]
    )
    yield "truncated chunk", Injected("a chunk ends early", Kind.WITHIN, cut)
    yield "gzip", Injected("a compressed answer", Kind.BEFORE, to.altered(to.zipped))
    yield "HTTP/1.0", Injected("an answer in HTTP/1.0", Kind.HARMLESS, to.altered(to.as_http_1_0))
    hint = head(100) + head(103, "link: </a>")
    early = to.altered(lambda answer: hint + answer.wire)
    yield "100 and 103", Injected("interim answers first", Kind.HARMLESS, early)
    after = to.altered(lambda answer: answer.wire + NOISE)
    yield "noise after", Injected("noise after the answer", Kind.HARMLESS, after)
    two = to.altered(lambda answer: answer.wire * 2)
    yield "two answers", Injected("the answer twice", Kind.HARMLESS, two)
    yield "closes after", Injected("closed after the answer", Kind.HARMLESS, to.closes_after)


FAULTS: Mapping[str, Injected] = dict(
    [*_breaks(), *_slow(), *_refusals(), *_no_http(), *_forms(), *_lies()]
)
