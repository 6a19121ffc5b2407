"""`tandem serve` as a process of its own, under a limit or two, as a test wants it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.running import Config, http

PROGRAM = "import sys; from app.cli import main; sys.exit(main())"
READY = "Tandem is listening on "
DOCS = "/admin/docs"
PATIENCE = 90.0
"""Seconds for a start, on a machine that has much else to do."""
NOTHING: Mapping[str, str] = MappingProxyType({})
LINUX = Path("/proc/self/fd").exists()


@dataclass(slots=True)
class Served:
    """A gateway's process: its addresses, and what the system knows of it."""

    process: asyncio.subprocess.Process
    url: str
    admin: str
    errors: Path

    @property
    def files(self) -> int:
        """Files that it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def megabytes(self) -> float:
        """Memory that it holds."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6

    @property
    def said(self) -> str:
        """What it has written to standard error."""
        return self.errors.read_text()

    async def metric(self, name: str) -> float:
        """The sum of all samples of this name."""
        async with http(self.url) as client:
            page = (await client.get("/metrics")).text
        lines = [line for line in page.splitlines() if line.partition("{")[0].split(" ")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@asynccontextmanager
async def served(
    tree: Config,
    folder: Path,
    *options: str,
    limits: Callable[[], None] | None = None,
    environ: Mapping[str, str] = NOTHING,
) -> AsyncIterator[Served]:
    """`tandem serve` with this configuration, in `folder`; `limits` is called before it begins."""
    config = folder / "tandem.json"
    own = {"listen": {"port": 0}, "admin": {"port": 0}, **tree}
    config.write_text(json.dumps(own))
    errors = folder / "errors"
    with errors.open("w") as told:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, "serve", "--config", str(config), *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=told,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environ},
            preexec_fn=limits,
        )
    try:
        front, back = await asyncio.wait_for(_addresses(process), PATIENCE)
        yield Served(process, front, back, errors)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), PATIENCE)
            except TimeoutError:
                process.kill()
                await process.wait()
                raise


async def _addresses(process: asyncio.subprocess.Process) -> tuple[str, str]:
    front = ""
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode().rstrip():
        if line.startswith(READY):
            front = line.removeprefix(READY)
        for word in line.split():
            if word.endswith(DOCS):
                return front, word.removesuffix(DOCS)
    raise AssertionError("it did not start")
