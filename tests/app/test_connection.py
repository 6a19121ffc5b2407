"""Connections of strangers: heads without end, and requests that never come to theirs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from app import connection
from app.connection import HEAD, LEAST, Connection
from tests.conftest import Started
from tests.running import CHAT, Running, config, request, wire
from tests.scripted import Backend

BODY = b'{"model": "small", "messages": []}'
BEGUN = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n".encode()
UPLOAD = BEGUN + b"content-length: 1000000\r\n\r\n"


def status(said: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", said)
    assert found, said
    return int(found[1])


# ------------------------------------------------------------------------------- over a real socket


@pytest.fixture
async def running(gateway: Started, small: Backend) -> Running:
    return await gateway(config({"small": small}))


@pytest.mark.parametrize("begun", [BEGUN + b"x: ", BEGUN, b"GET /"], ids=["value", "many", "url"])
async def test_a_head_without_end_is_not_kept(running: Running, begun: bytes) -> None:
    """uvicorn would keep all of it, and take seconds of the loop to put it together."""
    piece = b"a: b\r\n" * 4096 if begun == BEGUN else b"a" * 16_384
    sent = 0
    async with wire(running.url) as client:
        await client.send(begun)
        while True:
            try:
                await client.send(piece)
            except ConnectionError:
                break
            sent += len(piece)
            await asyncio.sleep(0)
            assert sent < 200 * HEAD
    assert (await running.client.get("/healthz")).status_code == 200


async def test_a_long_head_is_taken(running: Running, small: Backend) -> None:
    async with wire(running.url) as client:
        for _ in range(3):  # on one connection, each counted for itself
            await client.send(request(BODY, "x: " + "a" * (HEAD - 1000)))
            assert (await client.answer())[0] == 200
    assert len(small.calls) == 3


STOPPED = {
    "nothing": b"",
    "head": BEGUN,
    "body": UPLOAD + b"{",
    "chunks": BEGUN + b"transfer-encoding: chunked\r\n\r\n5\r\nab",
    "after a refusal": b"POST /none HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{",
}


@pytest.mark.parametrize("begun", STOPPED.values(), ids=STOPPED)
async def test_what_does_not_go_on_is_broken_off(
    running: Running, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PERIOD", 0.05)
    async with wire(running.url) as client:
        await client.send(begun)
        said = await client.rest()
    assert status(said) == (404 if b"/none" in begun else 408)
    assert said.count(b"HTTP/1.1") == 1


# ------------------------------------------------------------------------------ the clock is ours


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def silent(_scope: Any, receive: Any, _send: Any) -> None:
    """An application that never answers."""
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.fixture
async def client() -> Iterator[tuple[Connection, Wire]]:  # type: ignore[misc]  # asynchronous
    state = ServerState()
    served = Connection(uvicorn.Config(silent, lifespan="off", ws="none"), state, {})
    wire = Wire()
    served.connection_made(wire)
    yield served, wire
    served.connection_lost(None)
    await asyncio.gather(*state.tasks)


def periods(served: Connection, *each: bytes) -> None:
    """In each period these bytes come."""
    for data in each:
        came = served._came
        served.data_received(data)
        served._look(came)


async def test_a_drop_now_and_then_is_not_enough(client: tuple[Connection, Wire]) -> None:
    served, wire = client
    periods(served, UPLOAD + b"x" * LEAST, b"x" * LEAST)
    assert not wire.closed
    while served.flow.read_paused:  # until the application has taken what came
        await asyncio.sleep(0)
    periods(served, b"x")
    assert status(wire.written) == 408
    assert wire.closed


async def test_who_is_not_read_is_not_late(client: tuple[Connection, Wire]) -> None:
    """A request that waits behind another, or for the gateway to take its body."""
    served, wire = client
    served.data_received(UPLOAD)
    served.flow.pause_reading()
    periods(served, b"x")
    assert not wire.closed
    served.flow.resume_reading()
    periods(served, b"x")
    assert wire.closed


async def test_a_request_that_is_there_has_all_the_time(client: tuple[Connection, Wire]) -> None:
    served, _ = client
    assert served._late is not None
    served.data_received(request(BODY))
    assert served._late is None, "its answer may take as long as it takes"


async def test_a_head_that_is_too_long_is_told(client: tuple[Connection, Wire]) -> None:
    served, wire = client
    served.data_received(BEGUN)
    served.data_received(b"x: " + b"a" * HEAD)
    assert status(wire.written) == 431
    assert wire.closed
