"""Which HTTP client for the data plane? `python -m app.bench.clients` repeats decision 0001.

Each client carries the same bare relay, measured side by side, and is asked to keep the promises
that a gateway makes: a call that is given up reaches the backend as a closed connection, before and
during its answer; pieces come as they arrive; broken framing is noticed. pyreqwest is no dependency
of Tandem: `pip install pyreqwest` to see it too.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any, TypeAlias

import uvloop

from app.bench.comparison import backend_process
from app.bench.figures import Figure, Report, machine, ratios, summary
from app.bench.processes import cores, free_port, module, running
from app.bench.relay import Message, Receive, Send, open_session, serve, whole_body
from app.bench.throughput import REQUESTS, STREAMS, Subject, measure
from router.upstream import Upstream

REPETITIONS, SECONDS = 5, 2.0
JSON = {"content-type": "application/json"}
LONGEST = 1.0
"""Seconds after which a promise counts as broken; the gateway's own limit is a tenth of that."""

Pieces: TypeAlias = AsyncGenerator[bytes, None]
Client: TypeAlias = Callable[[str, bytes], Pieces]
"""POSTs a body to a URL; yields the content type first, then the answer as it arrives."""


# ------------------------------------------------------------------------------------ the clients


def _aiohttp(closing: AsyncExitStack) -> Client:
    session = open_session()
    closing.push_async_callback(session.close)

    async def post(url: str, body: bytes) -> Pieces:
        async with session.post(url, data=body, headers=JSON, allow_redirects=False) as answer:
            yield answer.content_type.encode()
            while piece := await answer.content.readany():
                yield piece

    return post


def _pyreqwest(closing: AsyncExitStack) -> Client:
    builder = import_module("pyreqwest.client").ClientBuilder()
    client = builder.no_proxy().follow_redirects(False).build()
    closing.push_async_callback(client.close)

    async def post(url: str, body: bytes) -> Pieces:
        request = client.post(url).headers(JSON).body_bytes(body)
        # By default it holds back the head and all pieces until 64 KiB are there.
        async with request.streamed_read_buffer_limit(0).build_streamed() as answer:
            yield (answer.get_header("content-type") or "").encode()
            while (piece := await answer.body_reader.read_chunk()) is not None:
                yield piece.to_bytes()

    return post


def _tandem(closing: AsyncExitStack) -> Client:
    upstream = Upstream(connect=3.0)
    closing.push_async_callback(upstream.close)

    async def post(url: str, body: bytes) -> Pieces:
        base, slash, path = url.rpartition("/v1/")
        reply = await upstream.send(base, slash + path, body, JSON)
        try:
            yield reply.kind.encode()
            while piece := await reply.read():
                yield piece
        finally:
            reply.close()

    return post


CLIENTS: Mapping[str, Callable[[AsyncExitStack], Client]] = {
    "aiohttp": _aiohttp,
    "pyreqwest": _pyreqwest,
    "tandem": _tandem,
}
"""By the name that the comparison uses; the last is what Tandem itself calls backends with."""


class _Relay:
    """The bare relay on one of the clients."""

    def __init__(self, client: str, upstream: str) -> None:
        self._make = CLIENTS[client]
        self._url = f"{upstream}/v1/chat/completions"
        self._post: Client | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass one request on and its answer back."""
        post = self._post = self._post or self._make(AsyncExitStack())
        async with aclosing(post(self._url, await whole_body(receive))) as pieces:
            kind = await anext(pieces)
            if kind.startswith(b"application/json"):
                body = b"".join([piece async for piece in pieces])
                await send(_start(kind, (b"content-length", b"%d" % len(body))))
                await send({"type": "http.response.body", "body": body})
                return
            await send(_start(kind))
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _start(kind: bytes, *headers: tuple[bytes, bytes]) -> Message:
    head = [(b"content-type", kind), *headers]
    return {"type": "http.response.start", "status": 200, "headers": head}


# ----------------------------------------------------------------------------------- the promises


class _Backend:
    """A backend that behaves as badly as the path says, and notes when its caller hangs up."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            if b"/silent" not in head:
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                    b"transfer-encoding: chunked\r\n\r\n9\r\ndata: 0\n\n\r\n"
                )
            if b"/malformed" in head:
                await writer.drain()
                await asyncio.sleep(0.05)  # so that it does not come in one packet with the head
                writer.write(b"zz\r\n")
            await reader.read()
        self.gone.set()
        writer.close()


@asynccontextmanager
async def _backend() -> AsyncIterator[tuple[str, _Backend]]:
    """A backend of its own for each promise, so that no other call's end is taken for its."""
    backend = _Backend()
    async with await asyncio.start_server(backend.serve, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1/", backend


async def _first_piece(client: Client) -> float | None:
    async with _backend() as (base, _), aclosing(client(base + "stalls", b"{}")) as pieces:

        async def look() -> None:
            while not (await anext(pieces)).startswith(b"data"):
                pass

        return await _within(look())


async def _noticed(client: Client) -> float | None:
    async with _backend() as (base, _):

        async def look() -> None:
            with suppress(Exception):  # whichever class the library has for it
                async for _ in client(base + "malformed", b"{}"):
                    pass

        return await _within(look())


async def _hang_up(client: Client, path: str) -> float | None:
    async with _backend() as (base, backend):

        async def read() -> None:
            async for _ in client(base + path, b"{}"):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.2)  # until it waits for the head or for the next piece
        task.cancel()
        kept = await _within(backend.gone.wait())
        await asyncio.wait([task])
        return kept


async def _promises(client: Client) -> dict[str, float | None]:
    """Seconds until each promise was kept; None if it was not."""
    return {
        "first piece": await _first_piece(client),
        "hang-up before the head": await _hang_up(client, "silent"),
        "hang-up in the stream": await _hang_up(client, "stalls"),
        "malformed chunk": await _noticed(client),
    }


async def _within(keeping: Coroutine[Any, Any, object]) -> float | None:
    began = perf_counter()
    try:
        await asyncio.wait_for(keeping, LONGEST)
    except TimeoutError:
        return None
    return perf_counter() - began


# ---------------------------------------------------------------------------------------- the run


def compare() -> Report:
    """Speed and promises of every client that is installed."""
    report = Report(machine())
    pinned = cores()
    names = [name for name in CLIENTS if name != "pyreqwest" or find_spec("pyreqwest")]
    with ExitStack() as stack:
        backend = stack.enter_context(backend_process(pinned))
        subjects = []
        for name in names:
            port = free_port()
            command = module(__spec__.name, port, f"http://127.0.0.1:{backend.port}", name)
            process = stack.enter_context(running(command, port, cpu=pinned.subject))
            subjects.append(Subject(name, process))
        rates = measure(subjects, REPETITIONS, SECONDS, pinned.load, lambda _: None)
    for case in (REQUESTS, STREAMS):
        first = rates[names[0], case.name].per_core
        for name in names:
            found = rates[name, case.name].per_core
            report.figures.append(summary(f"{name}: {case.name}", found, "/s of CPU"))
            compared = summary(f"{name} / {names[0]}: {case.name}", ratios(found, first), "")
            report.figures.append(compared)
    report.figures += [figure for name in names for figure in _kept(name)]
    return report


def _kept(name: str) -> Iterator[Figure]:
    async def ask() -> dict[str, float | None]:
        async with AsyncExitStack() as closing:
            return await _promises(CLIENTS[name](closing))

    for promise, seconds in uvloop.run(ask()).items():
        milliseconds = float("inf") if seconds is None else 1e3 * seconds
        yield summary(f"{name}: {promise}", [milliseconds], "ms")


def main() -> None:
    """Without arguments the comparison; with PORT, UPSTREAM and CLIENT one of its relays."""
    if len(sys.argv) > 1:
        port, upstream, client = sys.argv[1:]
        serve(_Relay(client, upstream), int(port))
    else:
        print(compare().as_text())


if __name__ == "__main__":
    main()
