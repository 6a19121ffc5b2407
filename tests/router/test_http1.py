"""The data plane's client, against servers that speak raw bytes, whole and torn, good and bad."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import http1, origins
from router.http1 import Connection, Exchange
from router.origins import Client
from tests.running import eventually, refusing, unaccepting

PATIENCE = 5.0
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: Text/Plain; x=y\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Type: text/plain\r\n\r\n"
    b'2;name="a;b"\r\nhe\r\n3\r\nllo\r\n0\r\nX-Trailer: content-length\r\n\r\n'
)
TO_EOF = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhello"
GOOD = {
    "length": PLAIN,
    "chunked": CHUNKED,
    "interim": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    + PLAIN,
    "old": PLAIN.replace(b"1.1", b"1.0"),
    "closes": PLAIN.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"),
    "until the end": TO_EOF,
    "other coding": TO_EOF.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: gzip\r\n\r\n"),
    "latin-1": PLAIN.replace(b"\r\n\r\n", b"\r\nx: \xff\r\n\r\n"),
}
ENDS_WITH_THE_CONNECTION = {"until the end", "other coding"}
ONCE = {"old", "closes", *ENDS_WITH_THE_CONNECTION}
"""Answers after which the connection is not used again."""
BAD_HEAD = {
    "another protocol": b"220 smtp ready\r\n",
    "version": b"HTTP/9.9 200 OK\r\n\r\n",
    "status": b"HTTP/1.1 abc OK\r\n\r\n",
    "space in a name": b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
    "two lengths": PLAIN.replace(b"\r\n\r\n", b"\r\ncontent-length: 6\r\n\r\n"),
    "length and chunks": CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n", 1),
    "negative length": PLAIN.replace(b"length: 5", b"length: -5"),
    "upgrade": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "long line": b"HTTP/1.1 200 OK\r\nx: " + b"x" * (2 * http1.LONGEST_HEAD) + b"\r\n\r\n",
    "many lines": b"HTTP/1.1 200 OK\r\n" + b"x: 1234567890\r\n" * 9000 + b"\r\n",
    "endless hints": b"HTTP/1.1 103 Early\r\nlink: </a>\r\n\r\n" * 9000,
}
BAD_BODY = {
    "no size": b"zz\r\n",
    "longer than its size": b"2\r\nhello\r\n",
    "huge size": b"ffffffffffffffffff\r\n",
    "bare line feed": b"5\nhello\n0\n\n",
}

CONNECT = 20.0
"""Seconds to connect, where that is not the question: a busy machine is slow even on loopback."""

Play: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Plays one script on each connection; counts them, and those whose caller has gone."""

    def __init__(self, play: Play) -> None:
        self.url = ""
        self.connected = self.gone = 0
        self.requests: list[bytes] = []
        self.heard = asyncio.Event()
        self._play = play

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        try:
            await self._play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone += 1
        finally:
            writer.close()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """The body of the next request."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        self.heard.set()
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        return await reader.readexactly(size)


@asynccontextmanager
async def serving(play: Play, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(play)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    server.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def answering(*answers: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server that gives these answers on each connection, one per request, and closes it."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await server.request(reader)
            writer.write(answer)

    async with serving(play, tls) as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    it = Client(CONNECT)
    yield it
    it.close()


async def posted(client: Client, server: Server | str, body: bytes = b"{}") -> Exchange:
    url = server if isinstance(server, str) else server.url
    async with asyncio.timeout(PATIENCE):
        return await client.post(url, "/v1/x", body, {"a": "b"})


async def whole(exchange: Exchange) -> bytes:
    body = b""
    async with asyncio.timeout(PATIENCE):
        while part := await exchange.read():
            body += part
    return body


class Wireless(asyncio.Transport):
    """A transport to nowhere: a test is the other side, and says how bytes are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Nobody hears it."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True


# ---------------------------------------------------------------------------------- good answers


@pytest.mark.parametrize("name", GOOD)
async def test_a_good_answer(client: Client, name: str) -> None:
    async with answering(GOOD[name]) as server:
        exchange = await posted(client, server, b"any \xff bytes")
        assert (exchange.status, exchange.kind) == (200, "text/plain")
        assert await whole(exchange) == b"hello"
        assert await exchange.read() == b""
        host = server.url.removeprefix("http://").encode()
        start = b"POST /v1/x HTTP/1.1\r\nhost: " + host + b"\r\ncontent-length: 11\r\na: b\r\n\r\n"
        assert server.requests == [start]


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body(client: Client, status: int) -> None:
    answer = b"HTTP/1.1 %d X\r\n\r\n" % status
    async with answering(answer, PLAIN) as server:
        assert await whole(await posted(client, server)) == b""
        assert await whole(await posted(client, server)) == b"hello"
        assert server.connected == 1


@given(
    name=st.sampled_from(sorted(GOOD)), tail=st.sampled_from([b"", b"\0", PLAIN]), data=st.data()
)
async def test_cuts_change_nothing(name: str, tail: bytes, data: st.DataObject) -> None:
    """However the bytes are cut, and whatever follows the answer in the last piece."""
    loop = asyncio.get_running_loop()
    answer = GOOD[name]
    last = len(answer) - 1
    points = data.draw(st.sets(st.integers(1, last)))
    edges = [0, *sorted(points), len(answer)]
    pieces = [answer[a:b] for a, b in itertools.pairwise(edges)]
    if name not in ENDS_WITH_THE_CONNECTION:
        pieces[-1] += tail
    idle: dict[Connection, None] = {}
    connection, transport = Connection(idle, set(), loop), Wireless()
    connection.connection_made(transport)
    begun = asyncio.ensure_future(connection.carry(b"", b""))
    await asyncio.sleep(0)
    for piece in pieces:
        connection.data_received(piece)
    if name in ENDS_WITH_THE_CONNECTION:
        connection.connection_lost(None)
    exchange = await begun
    assert (exchange.status, exchange.kind) == (200, "text/plain")
    assert await whole(exchange) == b"hello"
    assert bool(idle) == (name not in ONCE and not tail)
    assert transport.closed != bool(idle)


async def test_many_requests_use_one_connection(client: Client) -> None:
    async with answering(*[PLAIN, CHUNKED] * 500) as server:
        for _ in range(1000):
            assert await whole(await posted(client, server)) == b"hello"
        assert server.connected == 1


async def test_pieces_come_as_they_arrive_and_to_one_reader(client: Client) -> None:
    more = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(CHUNKED.partition(b"3\r")[0])
        await more.wait()
        writer.write(b"3\r\nllo\r\n0\r\n\r\n")

    async with serving(play) as server:
        exchange = await posted(client, server)
        assert await exchange.read() == b"he"
        waiting = asyncio.ensure_future(exchange.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await exchange.read()
        waiting.cancel()
        await asyncio.wait([waiting])
        more.set()
        assert await whole(exchange) == b"llo"


# ----------------------------------------------------------------------------------- bad answers


@pytest.mark.parametrize("name", GOOD)
async def test_the_end_at_every_byte(client: Client, name: str) -> None:
    answer = GOOD[name]
    head = answer.index(b"\r\n\r\n", answer.index(b" 200 ")) + 4
    for size in range(len(answer)):
        async with answering(answer[:size]) as server:
            if size >= head and name in ENDS_WITH_THE_CONNECTION:
                assert await whole(await posted(client, server)) == b"hello"[: size - head]
                continue
            with pytest.raises(http1.HungUpError) as caught:
                await whole(await posted(client, server))
            assert not isinstance(caught.value, http1.StaleError)
            assert server.connected == 1


@pytest.mark.parametrize("name", BAD_HEAD)
async def test_a_head_that_is_no_http(client: Client, name: str) -> None:
    async with answering(BAD_HEAD[name]) as server:
        with pytest.raises(http1.MalformedError):
            await posted(client, server)


@pytest.mark.parametrize("name", BAD_BODY)
async def test_broken_framing_is_an_error_at_once(client: Client, name: str) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(CHUNKED.partition(b"3\r")[0] + BAD_BODY[name])
        await reader.readexactly(1)  # it does not end the connection by itself

    async with serving(play) as server:
        exchange = await posted(client, server)
        with pytest.raises(http1.MalformedError):
            await whole(exchange)
        await eventually(lambda: server.gone == 1)


@given(noise=st.binary(max_size=200), at=st.integers(0, len(CHUNKED)))
async def test_noise_gives_an_answer_or_an_error(noise: bytes, at: int) -> None:
    client = Client(CONNECT)
    async with answering(CHUNKED[:at] + noise + CHUNKED[at:]) as server:
        try:
            await whole(await posted(client, server))
        except http1.HttpError:
            pass
        finally:
            client.close()


@pytest.mark.parametrize("garbage", [b"\0", PLAIN, b"HTTP/1.1 2"])
async def test_bytes_after_an_answer_end_the_connection(client: Client, garbage: bytes) -> None:
    async with answering(PLAIN + garbage, PLAIN) as server:
        for _ in range(3):
            assert await whole(await posted(client, server)) == b"hello"
        assert server.connected == 3


# --------------------------------------------------------------------------- kept connections


async def test_bytes_on_an_idle_connection_end_it(client: Client) -> None:
    more = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(PLAIN)
        await more.wait()
        writer.write(b"HTTP/1.1 408 Timeout\r\n\r\n")
        await reader.readexactly(1)

    async with serving(play) as server:
        await whole(await posted(client, server))
        more.set()
        await eventually(lambda: server.gone == 1)
        await whole(await posted(client, server))
        assert server.connected == 2


async def test_a_kept_connection_that_dies_unheard_is_stale(client: Client) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(PLAIN)
        await server.request(reader)

    async with serving(play) as server:
        await whole(await posted(client, server))
        with pytest.raises(http1.StaleError):
            await posted(client, server)
        exchange = await client.post(server.url, "/", b"", {}, fresh=True)
        assert await whole(exchange) == b"hello"


async def test_a_connection_closed_while_idle_is_not_used(client: Client) -> None:
    async with answering(PLAIN) as server:
        for number in range(1, 4):
            await whole(await posted(client, server))
            await eventually(lambda: not client._open)
            assert server.connected == number


async def test_idle_connections_are_closed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origins, "KEEP_IDLE", 0.01)
    async with answering(PLAIN, PLAIN) as server:
        await whole(await posted(client, server))
        await eventually(lambda: server.gone == 1 and not client._open)


async def test_closing_late_harms_nobody_else(client: Client) -> None:
    async with answering(PLAIN, PLAIN) as server:
        first = await posted(client, server)
        await whole(first)
        second = await posted(client, server)
        first.close()
        assert await whole(second) == b"hello"
        assert server.connected == 1


# ------------------------------------------------------------------------------------ hanging up


async def test_cancelling_at_any_moment_leaves_nothing_behind(client: Client) -> None:
    async with answering(PLAIN) as server:
        for steps in range(50):
            task = asyncio.ensure_future(posted(client, server))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await eventually(lambda: not client._open)


async def test_cancelling_before_the_head_hangs_up_at_once(client: Client) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        await reader.readexactly(1)

    async with serving(play) as server:
        task = asyncio.ensure_future(posted(client, server))
        await server.heard.wait()
        task.cancel()
        async with asyncio.timeout(0.1):
            await eventually(lambda: server.gone == 1)


async def test_closing_within_the_answer_hangs_up_at_once(client: Client) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(CHUNKED.partition(b"3\r")[0])
        await reader.readexactly(1)

    async with serving(play) as server:
        exchange = await posted(client, server)
        exchange.close()
        exchange.close()
        async with asyncio.timeout(0.1):
            await eventually(lambda: server.gone == 1)
        with pytest.raises(http1.HungUpError):
            await whole(exchange)


# ----------------------------------------------------------------------------------- large bodies


async def test_large_bodies_both_ways(client: Client) -> None:
    body = bytes(range(256)) * 40_000

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            sent = await server.request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(sent) + sent)

    async with serving(play) as server:
        for _ in range(2):
            assert await whole(await posted(client, server, body)) == body
        assert server.connected == 1


async def test_an_answer_before_the_request_is_sent(client: Client) -> None:
    """The rest is not sent, and the connection is not used again."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(PLAIN.replace(b"200 OK", b"413 No"))
        await writer.drain()
        await gone.wait()

    gone = asyncio.Event()
    async with serving(play) as server:
        exchange = await posted(client, server, bytes(20_000_000))
        assert (exchange.status, await whole(exchange)) == (413, b"hello")
        await eventually(lambda: not client._open)
        gone.set()


async def test_a_backend_waits_for_a_slow_reader(client: Client) -> None:
    size = 10_000_000

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        writer.write(bytes(size))
        await writer.drain()

    async with serving(play) as server:
        exchange = await posted(client, server)
        await eventually(lambda: exchange.crowded)
        assert exchange._size < 4 * http1.UNREAD
        assert len(await whole(exchange)) == size


# ------------------------------------------------------------------------- addresses and headers


async def test_nobody_there(client: Client) -> None:
    with refusing() as url, pytest.raises(http1.ConnectError):
        await posted(client, url)


async def test_nobody_accepts() -> None:
    hasty = Client(0.3)
    with unaccepting() as url, pytest.raises(http1.ConnectTimeoutError):
        await posted(hasty, url)


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\n", "\r", "\0", "\u20ac"])
async def test_no_header_can_split_a_request(client: Client, value: str) -> None:
    with refusing() as url, pytest.raises(ValueError, match=r"header|latin-1"):
        await client.post(url, "/", b"", {"x": value})
    with refusing() as url, pytest.raises(ValueError, match="path"):
        await client.post(url, f"/{value}", b"", {})


async def no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(PLAIN)
    await reader.read()


async def test_tls(client: Client, tmp_path: Path) -> None:
    """The name and the signature of a certificate are checked."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(  # noqa: ASYNC221  # nothing else runs yet
        [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    trusting = Client(CONNECT, ssl.create_default_context(cafile=certificate))
    async with answering(PLAIN, CHUNKED, tls=served) as server:
        for _ in range(2):
            assert await whole(await posted(trusting, server)) == b"hello"
        assert server.connected == 1
        with pytest.raises(http1.TlsError):
            await posted(trusting, server.url.replace("localhost", "127.0.0.1"))
        with pytest.raises(http1.TlsError):
            await posted(client, server)
    async with serving(no_tls) as server:
        with pytest.raises(http1.TlsError):
            await posted(trusting, server.url.replace("http:", "https:"))
    trusting.close()
