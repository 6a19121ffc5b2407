"""A whole gateway on a loopback port, in the test's own process, and clients that see every byte.

It is put together as `tandem serve` does it (`app.serve`), from a configuration that is a plain
dictionary. What it observes is kept, so that a test can wait for the end of a request and then look
at what is left: nothing may be.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from app.operators import Operator, Operators, Role
from app.rooms import Rooms, rooms
from app.serve import listening
from policies import TABLE
from router.backend import Backend as Watched
from router.config import Form, parse
from router.observe import Observation, RequestEnded
from tests.scripted import PATIENCE, Backend

T = TypeVar("T", bound=Observation)

MESSAGES = [{"role": "user", "content": "What is 3 + 4?"}]
CHAT = "/v1/chat/completions"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody; a client's own default takes longer to load than a gateway to start."""

OPERATORS = Operators({Operator("operator", Role.OPERATOR): "token"})
"""Who may use an admin API that a test opens: whoever sends `Bearer token`."""

Config: TypeAlias = dict[str, Any]
Served: TypeAlias = Backend | str | Sequence[Backend | str]
"""The backends of a model: scripted ones, or the URLs of others."""


def config(models: Mapping[str, Served], **sections: Any) -> Config:
    """A configuration with these models; `limits` and `policies` may be among the sections."""
    return {
        "models": {name: model(backends) for name, backends in models.items()},
        "default": next(iter(sections.get("policies") or models)),
        "health": {"every": 3600},  # looked at once, at start
        **sections,
    }


def model(backends: Served, **settings: Any) -> Config:
    """A model's section, prices included, so that costs have something to count."""
    several = [backends] if isinstance(backends, Backend | str) else backends
    urls = [backend if isinstance(backend, str) else backend.url for backend in several]
    return {"backends": urls, "price": {"input": 1.0, "output": 2.0}, **settings}


@dataclass(slots=True)
class Running:
    """A gateway that runs: its address, a client, its insides, and what it has observed."""

    url: str
    rooms: Rooms
    client: httpx.AsyncClient
    seen: list[Observation]

    def post(self, path: str = CHAT, **body: Any) -> Any:
        """A POST of this body; messages are there if nothing is said of them."""
        if path == CHAT:
            body = {"messages": MESSAGES, **body}
        return self.client.post(path, json=body)

    async def streamed(self, **body: Any) -> bytes:
        """The whole body of a streamed chat."""
        answer = await self.post(stream=True, **body)
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
        return bytes(answer.content)

    async def saw(self, kind: type[T], number: int = 1) -> T:
        """The observation of this kind and number, counted from 1, as soon as it is made."""
        async with asyncio.timeout(PATIENCE):
            while len(found := [seen for seen in self.seen if isinstance(seen, kind)]) < number:
                await asyncio.sleep(0)
        return found[number - 1]

    async def ended(self, number: int = 1) -> RequestEnded:
        """How the request of this number ended, as soon as it has."""
        return await self.saw(RequestEnded, number)

    def backend(self, of: str, number: int = 0) -> Watched:
        """The gateway's own view of a backend."""
        return self.rooms.revisions.runtime.pools[of].backends[number]

    def in_flight(self) -> int:
        """Calls that any backend is counted to be answering."""
        pools = self.rooms.revisions.runtime.pools.values()
        return sum(backend.in_flight for pool in pools for backend in pool.backends)

    async def metrics(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Every sample by its name, then by its labels' values in the order of their names."""
        page = await self.client.get("/metrics")
        samples: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(page.text):
            for sample in family.samples:
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                samples.setdefault(sample.name, {})[labels] = sample.value
        return samples


@asynccontextmanager
async def running(tree: Config) -> AsyncIterator[Running]:
    """The gateway of this configuration; every backend was asked what it can do."""
    seen: list[Observation] = []
    document = parse(json.dumps(tree), TABLE, "the test's config", Form.JSON)
    async with rooms(document, seen.append) as room:
        await asyncio.wait_for(room.health.probed(), PATIENCE)
        async with listening(room.gateway) as url, http(url) as client:
            yield Running(url, room, client, seen)


def http(url: str, **headers: str) -> httpx.AsyncClient:
    """A client of this server."""
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE, verify=NO_TLS)


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until this is so."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0)


# --------------------------------------------------------------------------- clients of bare bytes


@dataclass(slots=True)
class Wire:
    """A client's connection, as bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send these bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, mark: bytes) -> bytes:
        """Read up to and with `mark`."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """Read to the end of the connection."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One answer: status, headers and body, put together from its chunks."""
        head = (await self.until(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.until(b"\r\n"), 16):
                body += (await self.exactly(size + 2))[:-2]
            await self.until(b"\r\n")
        else:
            body = await self.exactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, body

    async def exactly(self, size: int) -> bytes:
        """Read so many bytes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readexactly(size)

    def reset(self) -> None:
        """Leave without a word."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def leave(self) -> None:
        """Close the connection."""
        self.writer.close()


@asynccontextmanager
async def wire(url: str, *, buffer: int | None = None) -> AsyncIterator[Wire]:
    """A connection to the gateway; `buffer` bounds what the system holds of what is not read."""
    address = urlsplit(url)
    connection = socket.socket()
    connection.setblocking(False)
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=buffer or 1 << 16)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def request(body: Mapping[str, Any] | bytes, *headers: str, path: str = CHAT) -> bytes:
    """The bytes of a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "host: tandem", f"content-length: {len(data)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


# --------------------------------------------------------------------- addresses of no backend


@contextmanager
def refusing() -> Iterator[str]:
    """A URL at which every connection is refused: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def unaccepting() -> Iterator[str]:
    """A URL at which connecting hangs: the queue of connections is full, and nobody accepts."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        try:
            for _ in range(3):  # Linux queues one more than was asked for
                filler = socket.socket()
                waiting.append(filler)
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            yield f"http://127.0.0.1:{full.getsockname()[1]}"
        finally:
            for filler in waiting:
                filler.close()
