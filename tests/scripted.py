"""A backend whose every byte is the test's own: HTTP/1.1 by hand on a loopback port.

A *script* answers one call. It writes bytes and waits for whatever the test lets happen, never for
a time to pass, so that a cut, a pause or a lie falls where the test put it. What a probe asks is
answered as vLLM would (`asked`), and is not among the calls: the gateway's own calls are known by
their `x-request-id`.

The backend counts what a gateway must get right: calls that are open, finished, and cancelled,
which means that the gateway hung up before the script had come to its end.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from time import monotonic
from typing import Any, TypeAlias, cast

from router.steps import Surface

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
PATIENCE = 10.0
"""Seconds after which a test gives up; what it waits for takes milliseconds."""

Script: TypeAlias = Callable[["Call"], Awaitable[None]]
Headers: TypeAlias = Sequence[tuple[str, str]]


PATHS = (*(f"/v1/{surface.value}" for surface in Surface), "/classify", "/pooling")
"""Where a vLLM that serves everything answers."""


class Call:
    """One request, whole, and the answer to it as far as it was written."""

    def __init__(self, transport: asyncio.Transport, head: bytes, body: bytes) -> None:
        request, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = request.split(" ", 2)
        pairs = (line.split(":", 1) for line in lines)
        self.headers = {name.lower(): value.strip() for name, value in pairs}
        self.body = body
        self.gone = asyncio.Event()
        self.gone_at = 0.0
        self.stalled = asyncio.Event()
        self.sent = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._transport = transport

    @property
    def json(self) -> dict[str, Any]:
        """The request's body, decoded."""
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded

    def pause(self) -> None:
        """The gateway reads more slowly than the script writes."""
        self._flowing.clear()
        self.stalled.set()

    def resume(self) -> None:
        """It has caught up."""
        self._flowing.set()

    async def raw(self, data: bytes) -> None:
        """Write these bytes, and wait while the gateway does not take them."""
        if self._transport.is_closing():
            raise asyncio.CancelledError
        self._transport.write(data)
        self.sent += len(data)
        await self._flowing.wait()

    async def head(self, status: int = 200, kind: str = SSE, headers: Headers = ()) -> None:
        """Begin an answer whose body comes in chunks."""
        await self.raw(_head(status, [("content-type", kind), *headers], chunked=True))

    async def chunk(self, data: bytes) -> None:
        """One HTTP chunk."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """The last chunk; the connection stays open."""
        await self.raw(b"0\r\n\r\n")

    async def whole(
        self, body: bytes, status: int = 200, kind: str = JSON, headers: Headers = ()
    ) -> None:
        """A complete answer."""
        told = [("content-type", kind), ("content-length", str(len(body))), *headers]
        await self.raw(_head(status, told) + body)

    def hang_up(self) -> None:
        """Close the connection in good order."""
        self._transport.close()

    def reset(self) -> None:
        """Break the connection: the gateway sees a reset."""
        connection = self._transport.get_extra_info("socket")
        linger_not_at_all = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not_at_all)
        self._transport.abort()


def _head(status: int, headers: Headers, *, chunked: bool = False) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if chunked:
        lines.append("transfer-encoding: chunked")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


# -------------------------------------------------------------------------------------- scripts


def answers(body: bytes | Mapping[str, Any], status: int = 200, kind: str = JSON) -> Script:
    """Answer with this body at once."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def script(call: Call) -> None:
        await call.whole(data, status, kind)

    return script


def streams(*pieces: bytes) -> Script:
    """Answer with a stream that is complete: each piece is a chunk of its own."""

    async def script(call: Call) -> None:
        await call.head()
        for piece in pieces:
            await call.chunk(piece)
        await call.end()

    return script


def pauses(gate: asyncio.Event, before: bytes, then: Script) -> Script:
    """A stream that says this much, waits for the test, and goes on as `then` says.

    What is to happen *after* the gateway has passed something on must wait for that: a break that
    arrives together with the bytes before it may be seen before them.
    """

    async def script(call: Call) -> None:
        await call.head()
        await call.chunk(before)
        await gate.wait()
        await then(call)

    return script


def chunks(*pieces: bytes, then: Script | None = None) -> Script:
    """More chunks of a stream that has begun; then whatever comes last, or the last chunk."""

    async def script(call: Call) -> None:
        for piece in pieces:
            await call.chunk(piece)
        await (then(call) if then else call.end())

    return script


async def silent(call: Call) -> None:
    """No more, until the gateway hangs up."""
    await call.gone.wait()


def stalls(*pieces: bytes) -> Script:
    """A stream that says no more after these pieces; no head either if there are none."""

    async def script(call: Call) -> None:
        if pieces:
            await call.head()
        for piece in pieces:
            await call.chunk(piece)
        await call.gone.wait()

    return script


def raw(data: bytes) -> Script:
    """These bytes, whatever they are, and the end of the connection."""

    async def script(call: Call) -> None:
        await call.raw(data)
        call.hang_up()

    return script


async def hangs_up(call: Call) -> None:
    """Read the request and close the connection."""
    call.hang_up()


async def vllm(call: Call) -> None:
    """A plausible answer to any call: a stream if one was asked for."""
    body = call.json
    model = body["model"]
    if body.get("stream"):
        await streams(*chat_events(["Hel", "lo"], model))(call)
    else:
        await answers(chat_answer("Hello", model))(call)


def usage(prompt: int = 10, completion: int = 2) -> dict[str, Any]:
    """Usage as OpenAI writes it."""
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def logprobs(*values: float) -> dict[str, Any]:
    """Log-probabilities of so many tokens."""
    return {
        "content": [
            {"token": f"t{n}", "logprob": value, "bytes": [116], "top_logprobs": []}
            for n, value in enumerate(values)
        ]
    }


def chat_answer(
    text: str = "Hello", model: str = "small", said: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A whole chat completion; `said` adds to its choice."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{**choice, **(said or {})}],
        "usage": usage(),
    }


def event(body: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def chunk(
    delta: Mapping[str, Any], reason: str | None = None, model: str = "small", **said: Any
) -> bytes:
    """The event of one piece of a streamed chat completion; `said` adds to its choice."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason, **said}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return event({**head, "choices": [choice]})


def usage_event(model: str = "small", **counts: int) -> bytes:
    """The event that carries usage and no choice."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return event({**head, "choices": [], "usage": usage(**counts)})


def chat_events(texts: Sequence[str], model: str = "small") -> list[bytes]:
    """A whole streamed chat completion, usage and end included."""
    return [
        chunk({"role": "assistant", "content": ""}, model=model),
        *(chunk({"content": text}, model=model) for text in texts),
        chunk({}, "stop", model=model),
        usage_event(model),
        DONE,
    ]


# --------------------------------------------------------------------------------- the backend


class Backend:
    """The endpoint. `calls` holds every call of the gateway in the order of arrival.

    `connected` counts all connections, `probing` those that only probes came by.
    """

    def __init__(self, *serves: str) -> None:
        self.serves = serves
        self.calls: list[Call] = []
        self.finished = 0
        self.cancelled = 0
        self.connected = 0
        self.probing = 0
        self.mistakes: list[BaseException] = []
        self.port = 0
        self.asked: Script = self.answer_probe
        self._scripts: list[Script] = [vllm]
        self._arrived = asyncio.Condition()
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        """As it stands in a config."""
        return f"http://{self.name}"

    @property
    def name(self) -> str:
        """As metrics and headers show it."""
        return f"127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Calls that are neither finished nor cancelled."""
        return len(self.calls) - self.finished - self.cancelled

    def plays(self, *scripts: Script) -> None:
        """Answer the next calls by these scripts, one each, and all further ones by the last."""
        self._scripts = [*scripts]

    async def call(self, number: int = 0) -> Call:
        """The call of this number, as soon as it has arrived."""
        async with asyncio.timeout(PATIENCE), self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls) > number)
        return self.calls[number]

    async def handle(self, call: Call) -> None:
        """Answer one request."""
        if "x-request-id" not in call.headers:
            await self.asked(call)
            return
        script = self._scripts[0] if len(self._scripts) == 1 else self._scripts.pop(0)
        self.calls.append(call)
        async with self._arrived:
            self._arrived.notify_all()
        try:
            await script(call)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if call.gone.is_set():
            self.cancelled += 1
        else:
            self.finished += 1

    async def answer_probe(self, call: Call) -> None:
        """Health and probes, as vLLM answers them."""
        if call.method == "GET":
            pages: dict[str, Mapping[str, Any]] = {
                "/health": {},
                "/version": {"version": "0.32.0"},
                "/openapi.json": {"paths": {path: {} for path in PATHS}},
                "/v1/models": {"data": [{"id": n, "max_model_len": 4096} for n in self.serves]},
            }
            found = pages.get(call.path)
            await answers(found or {}, 404 if found is None else 200)(call)
            return
        body = call.json
        if call.path == "/tokenize":
            await answers({"tokens": [1, 2, 3]})(call)
        elif body.get("cache_salt") == "":
            said = "Parameter 'cache_salt' must be a non-empty string if provided."
            await answers({"error": {"message": said, "code": 400}}, 400)(call)
        elif body.get("logprobs"):
            said = "Requested sample logprobs of 1000, which is greater than max allowed: 20"
            await answers({"error": {"message": said, "code": 400}}, 400)(call)
        else:
            ids = {"token_ids": [7]} if body.get("return_token_ids") else {}
            choice = {"index": 0, "text": "1", "finish_reason": "length", "stop_reason": None}
            await answers({"choices": [{**choice, **ids}]})(call)

    async def start(self) -> None:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self, self._connections), "127.0.0.1", 0
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Break every connection; raises what a script did wrong."""
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task.get_name() == self.name]
        await asyncio.sleep(0)  # a connection that was just accepted is made known now
        while self._connections:
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        for mistake in self.mistakes:
            raise mistake


class _Connection(asyncio.Protocol):
    """One connection of the gateway: one request after the other."""

    def __init__(self, backend: Backend, connections: set[_Connection]) -> None:
        self._backend = backend
        self._connections = connections
        self._unread = b""
        self._probing = False
        self._call: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._backend.connected += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._call:
            self._call.gone_at = monotonic()
            self._call.resume()
            self._call.gone.set()

    def pause_writing(self) -> None:
        if self._call:
            self._call.pause()

    def resume_writing(self) -> None:
        if self._call:
            self._call.resume()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, found, rest = self._unread.partition(b"\r\n\r\n")
        if not found:
            return
        call = Call(self._transport, head, b"")
        size = int(call.headers.get("content-length", 0))
        if len(rest) < size:
            return
        call.body, self._unread = rest[:size], rest[size:]
        if "x-request-id" not in call.headers and not self._probing:
            self._probing = True
            self._backend.probing += 1
        self._call = call
        self._task = asyncio.create_task(self._answer(call), name=self._backend.name)

    async def _answer(self, call: Call) -> None:
        leaving = asyncio.create_task(call.gone.wait())
        answering = asyncio.create_task(self._backend.handle(call))
        try:
            await asyncio.wait((leaving, answering), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not answering.done():
                answering.cancel()
        try:
            await answering
        except asyncio.CancelledError:
            pass
        except Exception as mistake:  # noqa: BLE001  # whatever it is: the test's own: told when the backend closes
            self._backend.mistakes.append(mistake)
            self._transport.abort()
        finally:
            if self._call is call:  # the next one may have come meanwhile
                self._call = None

    def abort(self) -> None:
        self._transport.abort()


@asynccontextmanager
async def scripted(*serves: str) -> AsyncIterator[Backend]:
    """A backend that serves the models of these names."""
    backend = Backend(*serves)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()
