"""The bare relay, the yardstick: `python -m app.bench.relay PORT UPSTREAM_URL`.

The least that an ASGI program on uvicorn and aiohttp can do to pass one request on and its answer
back, streamed or not. No keys, no parsing, no routing, no metrics, no limits, and a client that
leaves is not noticed. What a gateway costs is what it costs on top of this.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import uvicorn
from yarl import URL

__all__ = ["Relay", "main", "serve"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DROPPED = frozenset((b"transfer-encoding", b"connection", b"date", b"server"))
"""Headers of one connection, which are not passed on; uvicorn sets its own."""


class Relay:
    """The ASGI application."""

    def __init__(self, upstream: str) -> None:
        self._url = URL(f"{upstream}/v1/chat/completions", encoded=True)
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass one request on and its answer back."""
        session = self._session = self._session or open_session()
        body = await whole_body(receive)
        headers = {"Content-Type": "application/json"}
        async with session.post(self._url, data=body, headers=headers) as answer:
            kept = [(k.lower(), v) for k, v in answer.raw_headers if k.lower() not in DROPPED]
            start = {"type": "http.response.start", "status": answer.status, "headers": kept}
            if answer.content_length is not None:
                whole = await answer.content.read()
                await send(start)
                await send({"type": "http.response.body", "body": whole})
                return
            await send(start)
            while piece := await answer.content.readany():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def open_session() -> aiohttp.ClientSession:
    """A session set up as cheaply as aiohttp allows."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
    )


async def whole_body(receive: Receive) -> bytes:
    """The request's body."""
    message = await receive()
    body: bytes = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    return body


def serve(application: Callable[..., Awaitable[None]], port: int) -> None:
    """Serve `application` with uvicorn's fastest settings until killed."""
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        access_log=False,
        log_level="warning",
    )


def main() -> None:
    """Serve until killed."""
    serve(Relay(sys.argv[2]), int(sys.argv[1]))


if __name__ == "__main__":
    main()
