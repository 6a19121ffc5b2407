"""How the control plane asks: `httpx`, with the bounds that it lacks.

httpx limits the wait for each piece of an answer, not for all of it, and takes in whatever comes:
a server that drips would keep a question open for ever, one that pours would fill the memory, and
cookies would go to whoever has the same host. Health, probes and sleep ask through here. Calls on a
client's behalf do not: they are `router.upstream`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx

LONGEST = 16 << 20
"""Bytes of an answer. vLLM's largest, its OpenAPI document, has some 0.3 MB."""
FRESH = httpx.Limits(max_keepalive_connections=0)
"""A connection for each question: vLLM closes idle ones after 5 s, which is when the next one would
find it closed and take that for an answer."""
UNWANTED = (b"set-cookie", b"content-encoding")


def asker() -> httpx.AsyncClient:
    """A client whose timeout is for the whole of an answer, and that keeps nothing between two."""
    plain = {"accept-encoding": "identity"}
    return httpx.AsyncClient(transport=Bounded(), trust_env=False, headers=plain)


class Bounded(httpx.AsyncBaseTransport):
    """httpx's transport, which gives answers that are whole, in time, and of a size to be held."""

    def __init__(self) -> None:
        self._inner = httpx.AsyncHTTPTransport(limits=FRESH, trust_env=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The whole answer. Raises `httpx.TransportError`."""
        seconds = request.extensions.get("timeout", {}).get("read")
        try:
            async with asyncio.timeout(seconds):
                response = await self._inner.handle_async_request(request)
                try:
                    assert isinstance(response.stream, httpx.AsyncByteStream)
                    body = await _whole(response.stream)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise httpx.ReadTimeout(f"no whole answer in {seconds:g} s", request=request) from None
        kept = [(n, v) for n, v in response.headers.raw if n.lower() not in UNWANTED]
        return httpx.Response(response.status_code, headers=kept, content=body)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()


async def _whole(stream: AsyncIterator[bytes] | httpx.AsyncByteStream) -> bytes:
    body = bytearray()
    async for part in stream:
        body += part
        if len(body) > LONGEST:
            raise httpx.ReadError(f"the answer is longer than {LONGEST} bytes")
    return bytes(body)
