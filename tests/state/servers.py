"""A real Redis (or Valkey) server on a free loopback port, that keeps nothing on disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NotThereError

FLAGS = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no")


def program() -> str:
    """The server's program; skips the test where there is none, except where CI runs."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail("neither redis-server nor valkey-server is there")
    pytest.skip("needs redis-server or valkey-server")


@dataclass(slots=True)
class Server:
    """A server that can be killed, and started again at the same address."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As the configuration names it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [program(), "--port", str(self.port), "--dir", str(self.folder), *FLAGS]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with Redis.from_url(self.url) as client:
            while True:
                assert self.process.poll() is None, "the server ended at once"
                try:
                    client.ping()
                    return
                except NotThereError:
                    continue

    def kill(self) -> None:
        """As kill -9 does."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def redis(folder: Path) -> Iterator[Server]:
    """A server that runs, until the end of the block."""
    server = Server(folder, free_port())
    server.start()
    try:
        yield server
    finally:
        server.kill()
