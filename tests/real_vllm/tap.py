"""A tap: between the gateway and one backend, passing every byte on and keeping those of requests.

It knows TCP and nothing of HTTP but where a request's body begins and how long it is.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PIECE = 1 << 16
_REQUEST = re.compile(rb"POST (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.DOTALL)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Tap:
    """Listens at `url`. What was sent up each connection is in `sent`."""

    url: str
    sent: list[bytearray] = field(default_factory=list)

    def bodies(self, path: str) -> list[bytes]:
        """The bodies of all requests to `path`, connection by connection."""
        found = []
        for kept in self.sent:
            data = bytes(kept)
            for request in _REQUEST.finditer(data):
                length = _LENGTH.search(request[2])
                if request[1].decode() == path and length is not None:
                    found.append(data[request.end() : request.end() + int(length[1])])
        return found

    def prompts(self, path: str = "/v1/chat/completions") -> list[Any]:
        """The same, decoded."""
        return [json.loads(body) for body in self.bodies(path)]

    def forget(self) -> None:
        """Keep nothing of what was sent so far; connections stay open."""
        for kept in self.sent:
            kept.clear()


@contextlib.contextmanager
def tapped(upstream: str) -> Iterator[Tap]:
    """A tap before `upstream`, on a free loopback port."""
    parts = urlsplit(upstream)
    assert parts.hostname
    assert parts.port
    target = (parts.hostname, parts.port)
    open_sockets: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tap = Tap(f"http://127.0.0.1:{listener.getsockname()[1]}")
        threading.Thread(
            target=_accept, args=(listener, target, tap, open_sockets), daemon=True
        ).start()
        try:
            yield tap
        finally:
            for each in open_sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()


def _accept(
    listener: socket.socket, target: tuple[str, int], tap: Tap, open_sockets: list[socket.socket]
) -> None:
    with contextlib.suppress(OSError):  # the listener is closed at the end
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(target)
            open_sockets += [client, server]
            kept = bytearray()
            tap.sent.append(kept)
            for source, sink, copy in ((client, server, kept), (server, client, None)):
                threading.Thread(target=_pump, args=(source, sink, copy), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(PIECE):
            if kept is not None:
                kept += piece
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
