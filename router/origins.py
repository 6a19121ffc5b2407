"""Connections to the backends' origins: made when needed, kept for a while when idle.

The one that was used last is used first, so that the others grow old and are closed. The number of
connections has no limit: how much a backend gets is the fleet's business. What is said on a
connection is `router.http1`'s.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from router.http1 import (
    ConnectError,
    Connection,
    ConnectTimeoutError,
    Exchange,
    ExhaustedError,
    HungUpError,
    TlsError,
)

OURS = frozenset({
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL,
})  # fmt: skip
"""What this process or its machine has too little of: descriptors, memory, ports."""
KEEP_IDLE = 4.0
"""Seconds an idle connection is kept. vLLM (uvicorn) closes its own after 5, so be first."""


def exhausted(error: BaseException | None) -> bool:
    """Whether a connection failed for want of something here, wherever in the chain it is told."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in OURS:
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """Where a backend listens, and the idle connections to it, the one used last at the end."""

    host: str
    port: int
    tls: bool
    authority: str
    path: str
    idle: dict[Connection, None] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)
    """The lines that every request to a path begins with."""

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of `url`, which has no query."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        authority = parts.netloc.rpartition("@")[2]
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname or "", port, tls, authority, parts.path.rstrip("/"))

    def head(self, path: str, size: int, headers: Mapping[str, str]) -> bytes:
        """The head of a request with a body of `size` bytes.

        Raises:
            ValueError: A header holds a line break or a character that is not Latin-1.
        """
        start = self.starts.get(path)
        if start is None:
            target = self.path + path
            if not (target.isascii() and target.isprintable()) or " " in target:
                raise ValueError(f"{target!r} is no path of a URL")
            start = self.starts[path] = (
                f"POST {target} HTTP/1.1\r\nhost: {self.authority}\r\ncontent-length: "
            )
        lines = "".join([f"\r\n{name}: {value}" for name, value in headers.items()])
        if lines.count("\r") != len(headers) or lines.count("\n") != len(headers) or "\0" in lines:
            raise ValueError("a header holds a line break or a zero byte")
        return f"{start}{size}{lines}\r\n\r\n".encode("latin-1")

    def last_used(self, now: float) -> Connection | None:
        """The idle connection that was used last, if it can be used again."""
        while self.idle:
            connection, _ = self.idle.popitem()
            if not connection.closing and now - connection.idle_since < KEEP_IDLE:
                return connection
            connection.fail(HungUpError("idle for too long"))
        return None

    def close_idle(self, since: float) -> None:
        """Close all that have been idle since then or longer."""
        for connection in [one for one in self.idle if one.idle_since <= since]:
            connection.fail(HungUpError("idle for too long"))


class Client:
    """All connections to all origins. Make it inside a running loop; close it after.

    `connect` is the limit on connecting in seconds, name lookup and TLS included; `trust` replaces
    the system's certificates.
    """

    def __init__(self, connect: float, trust: ssl.SSLContext | None = None) -> None:
        self._connect = connect
        self._trust = trust
        self._loop = asyncio.get_running_loop()
        self._origins: dict[str, Origin] = {}
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def post(
        self, base: str, path: str, body: bytes, headers: Mapping[str, str], *, fresh: bool = False
    ) -> Exchange:
        """POST `body` to `base + path`; the exchange comes once its answer's head is there.

        With `fresh` no kept connection is used. Header names are lower-case. Cancelling this hangs
        up. Raises `HttpError`; `ValueError` for a header that cannot be sent.
        """
        origin = self._origins.get(base)
        if origin is None:
            origin = self._origins[base] = Origin.of(base)
        head = origin.head(path, len(body), headers)
        connection = None if fresh else origin.last_used(self._loop.time())
        if connection is None:
            connection = await self._connected(origin)
        if self._sweep is None:
            self._sweep = self._loop.call_later(KEEP_IDLE, self._swept)
        return await connection.carry(head, body)

    async def _connected(self, origin: Origin) -> Connection:
        connection = Connection(origin.idle, self._open, self._loop)
        try:
            await self._connecting(connection, origin)
        except BaseException:
            self._open.discard(connection)  # uvloop does not say that it has closed it
            raise
        return connection

    async def _connecting(self, connection: Connection, origin: Origin) -> None:
        trust = self._trust
        if origin.tls and trust is None:
            trust = self._trust = ssl.create_default_context()
        try:
            async with asyncio.timeout(self._connect):
                await self._loop.create_connection(
                    lambda: connection,
                    origin.host,
                    origin.port,
                    ssl=trust if origin.tls else None,
                )
        except TimeoutError:
            message = f"no connection to {origin.authority} within {self._connect:g} s"
            raise ConnectTimeoutError(message) from None
        except ssl.SSLError as error:
            raise TlsError(f"TLS with {origin.authority} failed: {error}") from error
        except socket.gaierror as error:
            raise ConnectError(f"no address of {origin.host}: {error.strerror}") from error
        except OSError as error:
            if exhausted(error):
                raise ExhaustedError(error.strerror or str(error)) from error
            raise ConnectError(error.strerror or str(error)) from error

    def _swept(self) -> None:
        """Look again while any connection is open; so one is idle for twice the limit at most."""
        since = self._loop.time() - KEEP_IDLE
        for origin in self._origins.values():
            origin.close_idle(since)
        self._sweep = self._loop.call_later(KEEP_IDLE, self._swept) if self._open else None

    def close(self) -> None:
        """Close every connection, also those that carry an exchange."""
        if self._sweep:
            self._sweep.cancel()
            self._sweep = None
        for connection in tuple(self._open):
            connection.fail(HungUpError("the gateway closes"))
