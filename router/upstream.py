"""Upstream: HTTP to the backends, and nothing that is above HTTP.

One `aiohttp` session per process (decision 0001 has the measurement). It follows no redirect, reads
no proxy from the environment and decompresses nothing. What can go wrong at this level becomes a
`FaultError` here, so that no caller ever sees an aiohttp class. Waiting limits are the caller's;
only the time to connect is kept here, because nobody else sees the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
from yarl import URL

from router.faults import Blame, Fault, FaultError

KEEP_IDLE = 4.0
"""Seconds an idle connection is kept. vLLM (uvicorn) closes its own after 5, so be first."""
LONGEST_HEADER = 65_536
"""Bytes in a response header line; aiohttp's default of 8 KiB is an error for chatty proxies."""
STALE = 0.05
"""Seconds: a kept connection that breaks this soon after sending was closed before, and the call
never reached the backend; it is made once more on a fresh connection."""
FINISH = 0.05
"""Seconds to wait for the end of a stream that has said that it is done, to keep its connection."""


READ_ERRORS = (aiohttp.ClientError,)
"""What `Reply.read` may raise; `broken_off` says what that means."""


def broken_off(error: Exception) -> FaultError:
    """The fault of a connection that broke while its answer was read."""
    return broken(f"the connection broke during the answer: {error}", "broken")


def broken(message: str, code: str = "backend_error") -> FaultError:
    """A backend's failure below the level of HTTP statuses."""
    return FaultError(Fault(Blame.BACKEND, message, 502, code))


class Reply:
    """A backend's answer, its body still to be read. `close` is idempotent and never waits.

    `read` gives whatever has arrived, at once, and nothing at the end; it is the library's own
    bound method, since it is called once per token, and so raises `READ_ERRORS`.
    """

    __slots__ = ("_response", "kind", "read", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.kind = response.content_type
        self.read: Callable[[], Awaitable[bytes]] = response.content.readany

    async def read_whole(self, limit: int) -> bytes:
        """The whole body; a `FaultError` if it is longer than `limit` bytes."""
        parts, size = [], 0
        try:
            while part := await self.read():
                size += len(part)
                if size > limit:
                    raise broken(f"the answer is longer than {limit} bytes", "answer_too_large")
                parts.append(part)
        except READ_ERRORS as error:
            raise broken_off(error) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def finish(self) -> None:
        """Let a stream that is over end by itself, so that its connection can be used again."""
        if self._response.content.at_eof():
            return
        try:
            async with asyncio.timeout(FINISH):
                await self._response.content.readany()
        except (TimeoutError, aiohttp.ClientError):
            pass

    def close(self) -> None:
        """Hang up; a body that was read to its end leaves the connection for others."""
        self._response.close()


class Upstream:
    """The session that all calls go through. Make it inside a running loop; close it after."""

    def __init__(self, connect: float) -> None:
        self._urls: dict[tuple[str, str], URL] = {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_IDLE, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
        )

    async def send(self, base: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """POST `body`; the reply comes with its status and type. Raises `FaultError`."""
        url = self._urls.get((base, path))
        if url is None:
            url = self._urls[base, path] = URL(base + path, encoded=True)
        began = asyncio.get_running_loop().time()
        try:
            return await self._post(url, body, headers)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            late = asyncio.get_running_loop().time() - began > STALE
            if late or isinstance(error, aiohttp.ClientConnectorError):
                raise _fault_of(error) from error
        except aiohttp.ClientError as error:
            raise _fault_of(error) from error
        try:
            return await self._post(url, body, headers)
        except aiohttp.ClientError as error:
            raise _fault_of(error) from error

    async def _post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> Reply:
        response = await self._session.request(
            "POST", url, data=body, headers=headers, allow_redirects=False
        )
        return Reply(response)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


def _fault_of(error: aiohttp.ClientError) -> FaultError:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return broken("the backend did not accept a connection in time", "connect_timeout")
        case aiohttp.ClientConnectorError():
            return broken(f"cannot connect to the backend: {error.os_error}", "unreachable")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return broken("the backend hung up before it answered", "hung_up")
        case aiohttp.ClientResponseError():
            return broken(f"the backend does not speak HTTP: {error.message}", "malformed")
        case _:
            return broken(f"the call failed: {error}")
