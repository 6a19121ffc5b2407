"""Clients that are slow, greedy or gone: what each may take, and that the others notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from app import connection
from app.connection import LONGEST_HEAD, MOST_AHEAD
from tests.conftest import Started
from tests.running import Running, Wire, config, eventually, request, wire
from tests.scripted import DONE, Backend, Call, chunk, pauses, stalls

ASKED = {"model": "small", "messages": [], "stream": True}
PATIENCE = {"client": 0.2, "keepalive": 600}
CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
HALVES = {
    "nothing": b"",
    "half a line": b"POST /v1/chat",
    "half a head": b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n",
    "no body": request(ASKED)[: -len(json.dumps(ASKED))],
    "half a body": request(ASKED)[:-9],
    "half a chunk": CHUNKED + b"9\r\n{",
}


async def drip(client: Wire, data: bytes) -> None:
    """Send this again and again, until the gateway hangs up."""
    while not (client.reader.at_eof() or client.writer.is_closing()):
        client.writer.write(data)
        await asyncio.sleep(0.01)


async def pours(call: Call) -> None:
    """More than the system's buffers hold."""
    await call.head()
    while not call.gone.is_set():
        await call.chunk(chunk({"content": "x" * 60_000}))


async def works(running: Running) -> None:
    """Somebody else is answered as ever."""
    assert (await running.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
async def test_a_request_that_never_ends(gateway: Started, small: Backend, sent: bytes) -> None:
    running = await gateway(config({"small": small}, limits=PATIENCE))
    async with wire(running.url) as client:
        if sent:
            await client.send(sent)
            status, headers, body = await client.answer()
            assert (status, headers["connection"]) == (408, "close")
            assert json.loads(body)["error"]["code"] == "client_timeout"
        assert await client.rest() == b""
    assert small.calls == []
    await works(running)


@pytest.mark.slow
async def test_a_request_that_comes_byte_by_byte(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}, limits=PATIENCE))
    async with wire(running.url) as client:
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nx-slow: ")
        dripping = asyncio.create_task(drip(client, b"a"))
        assert (await client.answer())[0] == 408
        await dripping
    async with wire(running.url) as client:
        await client.send(request(ASKED, "x-a: b").replace(b"length: 5", b"length: 95")[:-9])
        dripping = asyncio.create_task(drip(client, b" "))
        assert (await client.answer())[0] == 408
        await dripping


async def test_blank_lines_keep_no_connection_open(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}, limits=PATIENCE))
    async with wire(running.url) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await client.answer())[0] == 200
        await drip(client, b"\r\n")
        assert await client.rest() == b""


@pytest.mark.slow
async def test_a_large_body_may_take_longer(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}, limits=PATIENCE))
    data = json.dumps({**ASKED, "stream": False, "padding": "x" * 60_000}).encode()
    whole = request(data)
    async with wire(running.url) as client:
        for start in range(0, len(whole), 2_000):
            await client.send(whole[start : start + 2_000])
            await asyncio.sleep(0.02)
        assert (await client.answer())[0] == 200


@pytest.mark.slow
async def test_a_client_that_stops_reading_is_left(
    gateway: Started, small: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SLOWEST", 1e6)
    running = await gateway(config({"small": small}, limits=PATIENCE))
    small.plays(pours)
    async with wire(running.url, buffer=4096) as client:
        await client.send(request(ASKED))
        await client.until(b"\r\n\r\n")
        ended = await running.ended()
        assert ended.status == 499
        await eventually(lambda: small.open == 0 and running.in_flight() == 0)
    await works(running)


@pytest.mark.slow
async def test_a_client_that_reads_slowly_is_not(
    gateway: Started, small: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SLOWEST", 1e5)
    running = await gateway(config({"small": small}, limits=PATIENCE))
    small.plays(pours)
    async with wire(running.url, buffer=4096) as client:
        await client.send(request(ASKED))
        got = 0
        for _ in range(40):
            got += len(await client.reader.read(60_000))
            await asyncio.sleep(0.02)
        assert not client.reader.at_eof()
        assert small.open == 1
    assert got > 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_head_has_a_largest_size(gateway: Started, small: Backend, at_once: bool) -> None:
    running = await gateway(config({"small": small}))
    huge = b"GET /healthz HTTP/1.1\r\nx-huge: " + b"a" * (LONGEST_HEAD + 1)
    async with wire(running.url) as client:
        if at_once:
            await client.send(huge + b"\r\n\r\n")
        else:
            await client.send(huge[:32])
            dripping = asyncio.create_task(drip(client, b"a" * 4096))
        status, _, body = await client.answer()
        assert status == 431
        assert json.loads(body)["error"]["code"] == "head_too_large"
        if not at_once:
            await dripping
    await works(running)


async def test_trailers_are_no_headers(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    body = json.dumps(ASKED | {"stream": False}).encode()
    trailer = b"x-session-id: smuggled\r\n\r\n"
    async with wire(running.url) as client:
        await client.send(CHUNKED + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + trailer)
        assert (await client.answer())[0] == 200
    assert "x-session-id" not in small.calls[0].headers


async def test_endless_trailers(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    async with wire(running.url) as client:
        await client.send(CHUNKED + b"2\r\n{}\r\n0\r\nx-trailer: ")
        dripping = asyncio.create_task(drip(client, b"a" * 4096))
        assert (await client.answer())[0] == 431
        await dripping


async def test_leaving_is_noticed_behind_another_request(gateway: Started, small: Backend) -> None:
    """A client that has sent a second request before the first was answered, and leaves."""
    running = await gateway(config({"small": small}))
    small.plays(stalls(chunk({"content": "first"})))
    async with wire(running.url) as client:
        await client.send(request(ASKED))
        await client.until(b"first")
        await client.send(request(ASKED))
        await asyncio.sleep(0.05)
        client.reset()
        await eventually(lambda: small.cancelled == 1)
    assert (await running.ended()).status == 499
    assert len(small.calls) == 1


async def test_requests_sent_ahead_are_answered_in_order(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    async with wire(running.url) as client:
        await client.send(request(ASKED | {"stream": False}) * 3)
        for _ in range(3):
            assert (await client.answer())[0] == 200
    assert len(small.calls) == 3


async def test_nobody_sends_requests_ahead_without_end(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    small.plays(stalls())
    async with wire(running.url) as client:
        await client.send(request(ASKED) * (MOST_AHEAD + 2))
        assert await client.rest() == b""
    await eventually(lambda: small.open == 0 and running.in_flight() == 0)


async def test_nobody_offers_protocols_without_end(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    offer = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: a\r\n\r\n"
    async with wire(running.url) as client:
        await client.send(offer * 4_000)
        with contextlib.suppress(ConnectionError):
            await client.rest()
    await works(running)


async def test_nonsense_behind_a_request_is_not_answered_into_it(
    gateway: Started, small: Backend
) -> None:
    running = await gateway(config({"small": small}))
    go_on = asyncio.Event()
    small.plays(pauses(go_on, chunk({"content": "first"}), stalls()))
    async with wire(running.url) as client:
        await client.send(request(ASKED))
        await client.until(b"first")
        await client.send(b"\x00\x01nonsense\r\n\r\n")
        rest = b""
        with contextlib.suppress(ConnectionError):
            rest = await client.rest()
        assert b"HTTP/1.1" not in rest
        assert DONE not in rest


async def test_an_offer_of_another_protocol_is_passed_over(
    gateway: Started, small: Backend
) -> None:
    """Java's client offers HTTP/2 with every request."""
    running = await gateway(config({"small": small}))
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk")
    asked = request(ASKED | {"stream": False}, *offer)
    async with wire(running.url) as client:
        await client.send(asked * 2)
        for at in (0, 9, len(asked) - 9, len(asked)):
            await client.send(asked[:at])
            await asyncio.sleep(0.01)
            await client.send(asked[at:])
        for _ in range(6):
            assert (await client.answer())[0] == 200
        await client.send(
            request(ASKED | {"stream": False}, "connection: upgrade, close", "upgrade: x")
        )
        assert (await client.answer())[1]["connection"] == "close"
        assert await client.rest() == b""
    assert len(small.calls) == 7


async def test_a_tunnel_is_refused(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    async with wire(running.url) as client:
        await client.send(b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n")
        assert (await client.answer())[0] == 400
        assert await client.rest() == b""
