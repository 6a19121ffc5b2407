"""What is fuzzed: everything that reads bytes which somebody else wrote.

A target takes bytes and asserts what must hold of them; only the errors that it declares may be
raised inside. Each has words that its inputs are likely made of, and examples to begin with.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson

from app.keyfile import KeysError, load
from policies import TABLE
from policies.reading.found import find
from router import dialect, sse
from router.answer import Answer, Head, veil
from router.compose import Composer
from router.config import ConfigError, parse
from router.decode import Form, Problem
from router.errors import body_of
from router.faults import Fault, FaultError
from router.fleet import Price
from router.http1 import Connection, Exchange, HttpError
from router.ledger import Ledger
from router.refusals import PolicyError
from router.splice import splice
from router.steps import Attempt, Emit, Finished, Request, Surface, Token, Usage
from router.wire import FORWARDED
from router.wire import parse as parse_request
from tests.faults.fed import Fed, Silent

SURFACES = tuple(Surface)
SMALL, LARGE = Attempt(0, "small", "a:1"), Attempt(1, "large", "b:1")
LIMIT = 4096
"""Bytes of an event that a cutter holds at most here."""
LEAST = 40
"""Characters that make a document here: a few, so that there are many."""
_KEYS = Path(tempfile.gettempdir()) / "tandem-fuzzed-keys.yaml"


def cuts(data: bytes, most: int = 6) -> list[bytes]:
    """`data` in pieces, cut where its own bytes say; never an empty one."""
    draw = random.Random(len(data) + sum(data[:64]))
    places = sorted({draw.randrange(1, len(data)) for _ in range(most)}) if len(data) > 1 else []
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if b > a]


# ---------------------------------------------------------------------------------- from backends


def stream(data: bytes) -> None:
    """Events: the same whatever the cuts, and no byte is lost or made up."""
    parts, cutter = [], sse.Cutter(LIMIT)
    try:
        parts = [cutter.feed(piece) for piece in cuts(data)]
    except sse.EventTooLargeError:
        assert len(data) > LIMIT
        return
    whole = b"".join(parts)
    assert data.startswith(whole)
    events = b"".join(sse.blocks(whole))
    assert whole.startswith(events)
    assert not whole[len(events) :].strip(b"\r\n"), "an event is left"
    assert list(sse.read(whole)) == [event for part in parts for event in sse.read(part)]


def backend(data: bytes) -> None:
    """An answer of HTTP: it is complete, or there is an error; the body is in what came."""
    bodies = []
    for pieces in ([data], cuts(data)):
        wire = Fed()
        connection = Connection({}, set(), cast(asyncio.AbstractEventLoop, wire.loop))
        connection.connection_made(wire)
        exchange = connection._exchange = Exchange(connection, wire.loop)  # type: ignore[arg-type]  # a loop that does not run
        exchange.sent = True
        for piece in pieces:
            if not wire.closed and exchange.connection:
                connection.data_received(piece)
        if exchange.connection:
            connection.connection_lost(None)
        assert exchange.complete or isinstance(exchange.error, HttpError)
        assert exchange._size <= len(data)
        bodies.append((exchange.status, exchange.complete, b"".join(exchange._parts)))
    assert bodies[0][0] == bodies[1][0]
    if bodies[0][1]:
        assert bodies[0] == bodies[1], "the cuts have changed it"


def said(data: bytes) -> None:
    """What an answer says, if it is JSON, and if it is not."""
    surface, rest = SURFACES[data[0] % len(SURFACES)] if data else Surface.CHAT, data[1:]
    dialect.ends_stream(surface, rest)
    dialect.usage_in(rest)
    fault = dialect.fault_of(400 + len(rest) % 200, dialect.message_in(rest), rest)
    assert len(dialect.message_in(rest)) <= dialect.LONGEST
    body_of(fault, surface)
    for chunk in _json(rest):
        if fault_told := dialect.error_in(chunk):
            orjson.loads(body_of(fault_told, surface))
        if isinstance(chunk, dict):
            for piece in dialect.pieces(surface, chunk):
                assert isinstance(piece.text, str)
                assert all(isinstance(token, Token) for token in piece.tokens)
            veil(chunk, frozenset({"logprobs", "token_ids"}))


def answer(data: bytes) -> None:
    """A stream passed on to a client: whole events, usage and hidden fields as was asked."""
    flags, rest = (data[0] if data else 0), data[1:]
    options = {"include_usage": True} if flags & 1 else {}
    body = {"stream": True, "stream_options": options}
    request = Request(Surface.CHAT, "auto", body, b"", stream=True, id="req-1")
    ledger = Ledger(request, "auto", 1, None, 0.0, Price())
    sink = Sink()
    told = Answer(ledger, sink)
    told.hidden = frozenset({"logprobs"} if flags & 2 else ())
    cutter = sse.Cutter(1 << 20)
    for piece in cuts(rest):
        _done(told.pass_on(cutter.feed(piece)))
    _done(told.end(Finished(SMALL)))
    assert sink.last
    assert bytes(sink.sent).count(b"\ndata: [DONE]\n\n") <= 1 + rest.count(b"[DONE]")


class Sink:
    """Where an answer goes."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.last = False

    async def start(self, status: int, head: Head) -> None:
        """Headers hold what HTTP allows."""
        for _, value in head:
            assert b"\n" not in value
            assert b"\r" not in value

    async def send(self, data: bytes, last: bool) -> None:
        """Nothing follows the end."""
        assert not self.last
        self.sent += data
        self.last = last


def _done(awaited: Any) -> None:
    """Run what waits for nobody."""
    try:
        awaited.__await__().send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def composed(data: bytes) -> None:
    """Whatever is emitted, every event is JSON, and the text is all there."""
    flags = data[0] if data else 0
    body: dict[str, Any] = {"stream": bool(flags & 1), "logprobs": bool(flags & 2)}
    surface = Surface.CHAT if flags & 4 else Surface.COMPLETIONS
    if surface is Surface.COMPLETIONS:
        body["logprobs"] = 2 if flags & 2 else None
    body["return_token_ids"] = bool(flags & 8)
    request = Request(surface, "auto", body, b"", stream=body["stream"], explain=bool(flags & 16))
    composer, out, wanted = Composer(request, 1), bytearray(), ""
    for number, line in enumerate(data[1:].split(b"\n")):
        text = line.decode(errors="replace")
        tokens = tuple(Token(c, ord(c), -0.5) for c in text[:3])
        finish = Finished(SMALL, "stop") if line.endswith(b"!") else None
        writer = LARGE if line.startswith(b"L") else SMALL
        try:
            out += composer.emit(Emit(writer, text, tokens, number % 2, finish))
        except PolicyError:
            continue
        wanted += text if number % 2 == 0 else ""
    finished, usage = Finished(LARGE, "length"), Usage(1, 2)
    if request.stream:
        out += composer.end(finished, usage, show_usage=bool(flags & 32))
        chunks = [orjson.loads(event.data) for event in sse.read(bytes(out))]
    else:
        chunks = [orjson.loads(composer.body(finished, usage, {}))]
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == 0]
    assert "".join(_text_of(choice) for choice in choices) == wanted


def _text_of(choice: Mapping[str, Any]) -> str:
    if "text" in choice:
        return str(choice["text"])
    message = choice.get("delta") or choice.get("message") or {}
    return str(message.get("content") or "")


# ----------------------------------------------------------------------------------- from clients


def request(data: bytes) -> None:
    """A call: a request, or a fault that is the client's."""
    surface, rest = SURFACES[data[0] % len(SURFACES)] if data else Surface.CHAT, data[1:]
    headers = {FORWARDED[0]: rest[:20].decode("latin-1")}
    found = _request(surface, rest, headers)
    if isinstance(found, Fault):
        assert 400 <= found.status < 500
        orjson.loads(body_of(found, surface))
        return
    assert found.raw == rest
    change = {"model": "small", "stream_options": {"include_usage": True}, "new": [1]}
    assert orjson.loads(splice(rest, found.body, change)) == {**found.body, **change}
    assert isinstance(find(found.body, surface, LEAST), object)


def _request(surface: Surface, raw: bytes, headers: Mapping[str, str]) -> Request | Fault:
    try:
        return parse_request(surface, raw, headers, "auto", random.Random(1))
    except FaultError as error:
        return error.fault


def client(data: bytes) -> None:
    """A client's bytes: each request is served once, or the connection is refused."""
    counts = []
    for pieces in ([data], cuts(data)):
        listening = Silent()
        for piece in pieces:
            if not listening.wire.closed:
                listening.connection.data_received(piece)
        if not listening.wire.closed:
            listening.connection.connection_lost(None)
        assert not listening.wire.timers(), "a timer is left"
        counts.append([cycle.scope["path"] for cycle in listening.started])
    assert counts[0] == counts[1] or listening.wire.closed


# --------------------------------------------------------------------------------- from operators


def config(data: bytes) -> None:
    """A configuration: a document, or problems with their places."""
    form = Form.JSON if data[:1] == b"{" else Form.YAML
    problems: Sequence[Problem] | None = None
    try:
        parse(data.decode(errors="replace"), TABLE, "fuzzed", form)
    except ConfigError as error:
        problems = error.problems
    assert problems is None or (problems and all(problem.reason for problem in problems))


def keys(data: bytes) -> None:
    """A file of keys: entries, or one error."""
    _KEYS.write_bytes(data)
    with contextlib.suppress(KeysError):
        load(_KEYS)


def _json(data: bytes) -> Iterator[Any]:
    try:
        yield orjson.loads(data)
    except orjson.JSONDecodeError:
        return


# ------------------------------------------------------------------------------------- the list


@dataclass(frozen=True, slots=True)
class Target:
    """One of them; `runs` is its part of a million and more, by how long one takes."""

    function: Callable[[bytes], None]
    runs: int
    words: Sequence[bytes] = ()
    examples: Sequence[bytes] = ()


CHUNK = (
    b'data: {"id":"a","choices":[{"index":0,"delta":{"content":"x"},"logprobs":null}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
)
ASKED = b'{"model":"auto","messages":[{"role":"user","content":"hi"}],"stream":true}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n"
YAML = b"models:\n  small: {backends: [http://127.0.0.1:1]}\n"
SSE_WORDS = (b"data: ", b"\n\n", b"\r\n\r\n", b"\r\r", b"[DONE]", b"event: ", b": ", b'"usage":{')
JSON_WORDS = (
    b'"choices":[', b'"delta":{', b'"content":', b'"error":', b'"usage":', b'"logprobs":',
    b'"index":', b'"token_ids":', b'"top_logprobs":', b"null", b"-1", b"1e999", b'"\\u0000"', b"{}",
)  # fmt: skip
HTTP_WORDS = (
    b"\r\n\r\n", b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"3\r\nabc\r\n",
    b"0\r\n\r\n", b"connection: close\r\n", b"HTTP/1.0", b"upgrade: h2c\r\nconnection: upgrade\r\n",
    b"expect: 100-continue\r\n", b"HTTP/1.1 103 X\r\n\r\n",
)  # fmt: skip
YAML_WORDS = (
    b"models:", b"policies:", b"use: cascade", b"backends: [", b"&a", b"*a", b"!!int", b"<<: ",
    b"limits: {", b": ", b"\n  ", b"2001-13-01", b"keys:\n", b"- name: a", b"sha256: ", b"0x1F",
)  # fmt: skip
TARGETS: Mapping[str, Target] = {
    "stream": Target(stream, 300_000, SSE_WORDS, (CHUNK * 2, b"data: [DONE]\r\n\r\n", b"a\r\r")),
    "backend": Target(
        backend,
        200_000,
        HTTP_WORDS,
        (HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", HEAD + b"\r\nabc"),
    ),
    "said": Target(said, 180_000, JSON_WORDS, (b"\x00" + CHUNK[6:], b"\x01{}", b'\x04{"error":1}')),
    "answer": Target(answer, 90_000, (*SSE_WORDS, *JSON_WORDS), (b"\x00" + CHUNK, b"\x03" + CHUNK)),
    "composed": Target(composed, 60_000, (b"\n", b"L", b"!", b"\xff"), (b"\x05a\nb!\nc", b"\xffa")),
    "request": Target(request, 150_000, JSON_WORDS, (b"\x00" + ASKED, b"\x01{}")),
    "client": Target(client, 100_000, HTTP_WORDS, (POST + b"content-length: 2\r\n\r\n{}" + POST,)),
    "config": Target(config, 10_000, YAML_WORDS, (YAML, b'{"models":{}}', b"a: [1, 2]")),
    "keys": Target(keys, 3_000, YAML_WORDS, (b"keys:\n  - name: a\n    sha256: " + b"a" * 64,)),
}
"""Together 1,093,000 inputs."""
