"""A proxy between the gateway and a real backend that does wrong what it is told to, and no more.

It speaks to the gateway in bare bytes on a loopback port, so that a cut, a lie or a silence falls
where the fault puts it, and to the backend as an ordinary client. What it passes on untouched comes
in the backend's own pieces.

Which call is hit is settled by the *case* that it belongs to: the trace id that the test's client
sent, and that the gateway forwards. So cases run side by side in one gateway. Calls without one
(health checks, probes) are passed on: a backend that seems well is the harder case.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import aiohttp

from tests.scripted import PATIENCE

NO_DELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)
TRACE = "traceparent"


def trace(case: int) -> str:
    """The header `traceparent` of this case."""
    return f"00-{case + 1:032x}-{1:016x}-01"


def case_of(stated: str) -> int | None:
    """The case that such a header names."""
    parts = stated.split("-")
    return int(parts[1], 16) - 1 if len(parts) == 4 else None


@dataclass(slots=True)
class Answer:
    """A backend's whole answer: its pieces are those in which it came."""

    status: int
    kind: str
    pieces: list[bytes]

    @property
    def head(self) -> bytes:
        """Its head, for a body in chunks."""
        return head(self.status, f"content-type: {self.kind}", "transfer-encoding: chunked")

    @property
    def body(self) -> bytes:
        """Its body."""
        return b"".join(self.pieces)

    @property
    def wire(self) -> bytes:
        """All of it as it is sent."""
        return b"".join([self.head, *map(chunk, self.pieces), b"0\r\n\r\n"])


def head(status: int, *lines: str) -> bytes:
    """The head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", ""]).encode("latin-1")


def chunk(piece: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class Passing:
    """One call on its way, which a fault answers in whatever way it likes."""

    def __init__(self, proxy: Proxy, call: bytes, writer: asyncio.StreamWriter) -> None:
        self.gone = asyncio.Event()
        self.over = False
        self._proxy = proxy
        self._writer = writer
        request, *lines = call.decode("latin-1").split("\r\n")
        self.method, self.path, _ = request.split(" ", 2)
        pairs = (line.split(":", 1) for line in lines if line)
        self.headers = {name.lower(): value.strip() for name, value in pairs}
        self.body = b""

    @property
    def streams(self) -> bool:
        """Whether a stream was asked for."""
        return b'"stream":true' in self.body.replace(b" ", b"")

    async def answer(self) -> Answer:
        """The backend's whole answer."""
        async with self._asked() as answer:
            pieces = [piece async for piece in answer.content.iter_any()]
            return Answer(answer.status, answer.headers["content-type"], pieces)

    async def pass_on(self) -> None:
        """Answer as the backend does, as it does."""
        async with self._asked() as answer:
            begun = Answer(answer.status, answer.headers.get("content-type", ""), [])
            await self.send(begun.head)
            async for piece in answer.content.iter_any():
                await self.send(chunk(piece))
            await self.send(b"0\r\n\r\n")

    def _asked(self) -> aiohttp.client._RequestContextManager:
        kept = {n: v for n, v in self.headers.items() if n not in ("host", "content-length")}
        url = self._proxy.target + self.path
        return self._proxy.client.request(self.method, url, data=self.body, headers=kept)

    async def send(self, data: bytes) -> None:
        """Send these bytes, and wait while they are not taken."""
        self._writer.write(data)
        await self._writer.drain()

    async def silence(self) -> None:
        """No more, until the gateway hangs up."""
        await self.gone.wait()

    def hang_up(self) -> None:
        """Close the connection in good order."""
        self.over = True
        self._writer.close()

    def reset(self) -> None:
        """Break it."""
        self.over = True
        reset(self._writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection: the other side sees a reset."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT_AT_ALL)
    writer.transport.abort()


Fault: TypeAlias = Callable[[Passing], Coroutine[Any, Any, None]]
Hit: TypeAlias = Callable[[str, int], bool]
"""Whether a call is hit: by its backend's model, and its number within the case."""


@dataclass(slots=True)
class Plan:
    """What happens to the calls of each case, and how many of them came where."""

    faults: dict[int, tuple[Fault, Hit]] = field(default_factory=dict)
    calls: Counter[int] = field(default_factory=Counter)
    made: Counter[int] = field(default_factory=Counter)
    """Those of them that want an answer written."""
    hits: Counter[int] = field(default_factory=Counter)
    repeated: int = 1
    """Times that a call may be made once more: where a kept connection had been closed before."""
    on_connect: Callable[[str, asyncio.StreamWriter], bool] | None = None
    """Deals with a new connection to a backend of this model; says whether it did."""

    def fault(self, model: str, path: str, stated: str) -> Fault | None:
        """What to do to this call, if anything."""
        case = case_of(stated)
        if case is None:
            return None
        number = self.calls[case]
        self.calls[case] += 1
        self.made[case] += path.endswith("completions")
        fault, hit = self.faults.get(case, (None, None))
        if fault is None or hit is None or not hit(model, number):
            return None
        self.hits[case] += 1
        return fault


@dataclass(slots=True)
class Proxy:
    """In front of one backend, `target`, of this model."""

    model: str
    target: str
    plan: Plan
    client: aiohttp.ClientSession
    port: int = 0
    connected: int = 0
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def told(self) -> tuple[str, str]:
        """Model and URL, as they stand in a config."""
        return self.model, f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the gateway."""
        self.connected += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if self.plan.on_connect and self.plan.on_connect(self.model, writer):
                await reader.read()
                return
            begun: bytes | None = b""
            while begun is not None:
                begun = await self._one(begun, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, aiohttp.ClientError):
            pass  # either side has gone, which is what this is about
        except asyncio.CancelledError:
            pass  # the proxy closes
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _one(
        self, begun: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """One call, of which these bytes have come; gives those of the next, None at the end."""
        asked = begun + (await reader.readuntil(b"\r\n\r\n"))[:-4]
        call = Passing(self, asked, writer)
        call.body = await reader.readexactly(int(call.headers.get("content-length", 0)))
        fault = self.plan.fault(self.model, call.path, call.headers.get(TRACE, ""))
        answering = asyncio.create_task(fault(call) if fault else call.pass_on())
        more = asyncio.create_task(reader.read(1))  # of the next call; nothing at the end
        try:
            await asyncio.wait((answering, more), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                call.gone.set()
                answering.cancel()
                return None
            await answering
        finally:
            answering.cancel()
            if not more.done():
                more.cancel()
            came, _ = await asyncio.gather(more, answering, return_exceptions=True)
        if call.over or came == b"":
            return None
        return came if isinstance(came, bytes) else b""

    async def close(self) -> None:
        """Break every connection."""
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


@asynccontextmanager
async def proxied(plan: Plan, *backends: tuple[str, str]) -> AsyncIterator[list[Proxy]]:
    """A proxy in front of each of these backends, given by model and URL."""
    patience = aiohttp.ClientTimeout(total=3 * PATIENCE)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as client:
        proxies = [Proxy(model, url, plan, client) for model, url in backends]
        servers = []
        for proxy in proxies:
            server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 20)
            proxy.port = server.sockets[0].getsockname()[1]
            servers.append(server)
        try:
            yield proxies
        finally:
            for server in servers:
                server.close()
            await asyncio.gather(*(proxy.close() for proxy in proxies))
