"""Servers of the embedded pair that a test may kill: each comes back on the port that it had.

A server is a child of the test, and ends with it. Nothing here knows a gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from app import embedded
from tests.running import http

MODELS = Path(os.environ.get("TANDEM_PAIR_MODELS", embedded.MODELS))
READY = "listening on "
PATIENCE = 60.0
"""Seconds for a server to come up; 2 are usual, several at once on a busy machine take longer."""
IDLE = ("vllm:num_requests_running", "vllm:num_requests_waiting")


@dataclass(slots=True)
class Server:
    """One of the pair's models on a port of its own. `port` is 0 until it was up once."""

    model: str
    port: int = 0
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Where it listens, or did before it was killed."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def up(self) -> bool:
        """Whether its process is alive."""
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start it, again if need be, and wait until it listens."""
        pipe = asyncio.subprocess.PIPE
        options = ["--served-model-name", self.model, "--port", str(self.port)]
        command = ["-m", "deploy.pair", "--model", str(MODELS / self.model), *options]
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *command, "--exit-with-parent", stdin=pipe, stdout=pipe
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await self.process.stdout.readline()).decode()
        assert line.startswith(READY), f"the {self.model} server did not start (see above)"
        self.port = int(line.rpartition(":")[2])

    async def kill(self) -> None:
        """End it as an out-of-memory killer would."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def idle(self) -> bool:
        """Whether its engine has nothing to do, by its own metrics."""
        async with http(self.url) as client:
            lines = (await client.get("/metrics")).text.splitlines()
        counts = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(IDLE)]
        assert len(counts) == len(IDLE)
        return not any(counts)


@contextlib.asynccontextmanager
async def started(*models: str) -> AsyncIterator[list[Server]]:
    """A server for each of these models, in this order; the same model may come twice."""
    servers = [Server(name) for name in models]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        yield servers
    finally:
        await asyncio.gather(*(server.kill() for server in servers if server.up))


def by_model(servers: Sequence[Server]) -> dict[str, list[str]]:
    """The servers' addresses, as `tests.running.config` takes them."""
    names = dict.fromkeys(server.model for server in servers)
    return {name: [s.url for s in servers if s.model == name] for name in names}


missing = pytest.mark.skipif(
    not (MODELS / "small" / "onnx" / "model.onnx").is_file(),
    reason=f"no exported models in {MODELS}: see deploy/pair/README.md",
)
