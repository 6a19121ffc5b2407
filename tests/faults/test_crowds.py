"""Ten thousand connections at once, and more connections than the system allows."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Table
from tests.faults.report import Row
from tests.faults.served import LINUX, Served, served
from tests.running import config, http, wire
from tests.scripted import DONE, Backend, Call, chunk

MANY = 10_000
ACTIVE = 500
FEW = 160
"""Files that the small gateway may open."""
KILOBYTES = 40.0
"""Most memory for a connection that is open and says nothing."""
LATEST = 2.0
"""Seconds in which half of the others are answered while the crowd is there."""
GROUP = "Crowds"

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not LINUX, reason="looks into /proc"),
]


def few_files() -> None:
    """Runs in the child, before Tandem."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))


@asynccontextmanager
async def crowd(url: str, idle: int, active: int) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    command = ["-m", "tests.faults.crowd", url, str(idle), str(active)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdin=pipe, stdout=pipe
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def stage(process: asyncio.subprocess.Process) -> Any:
    """What the crowd says next."""
    assert process.stdout is not None
    async with asyncio.timeout(120):
        return json.loads(await process.stdout.readline())


def go_on(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")


async def middle_of(running: Served, number: int) -> float:
    """Seconds that the middle one of so many calls takes, each on a connection of its own."""
    took = []
    for _ in range(number):
        async with http(running.url) as client:
            before = time.monotonic()
            assert (await client.get("/healthz")).status_code == 200
            took.append(time.monotonic() - before)
    return sorted(took)[number // 2]


async def flat(running: Served, files: int) -> None:
    """Wait until it has no more files open than before."""
    async with asyncio.timeout(30):
        while running.files > files:
            await asyncio.sleep(0.05)


async def test_ten_thousand_connections(small: Backend, tmp_path: Path, table: Table) -> None:
    release = asyncio.Event()

    async def holds(call: Call) -> None:
        await call.head()
        await call.chunk(chunk({"content": "first"}))
        await release.wait()
        await call.chunk(chunk({"content": "last"}) + DONE)
        await call.end()

    small.plays(holds)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    idle = min(MANY, hard - 2 * ACTIVE - 200) - ACTIVE
    tree = config({"small": small}, limits={"deadline": 300, "idle": 300, "client": 300})
    async with served(tree, tmp_path) as running:
        await middle_of(running, 5)
        files, before = running.files, running.megabytes
        async with crowd(running.url, idle, ACTIVE) as people:
            opened = await stage(people)
            each = (running.megabytes - before) * 1000 / opened["opened"]
            go_on(people)
            assert (await stage(people))["begun"] == ACTIVE
            middle = await middle_of(running, 30)
            go_on(people)
            answered = await stage(people)
            release.set()
            go_on(people)
            ends = (await stage(people))["ends"]
            go_on(people)
            await people.wait()
        await flat(running, files + 8)
        in_flight = await running.metric("tandem_in_flight")
    happened = (
        f"{opened['opened']:,} open, {each:.1f} kB each, {ACTIVE} of them streams; a call beside "
        f"them {middle * 1000:.0f} ms; all answered in {answered['seconds']:.1f} s; files as before"
    )
    promised = "all are answered, others within seconds, and nothing is left"
    good = answered["answers"] == {"200": idle} and ends == {"complete": ACTIVE} and in_flight == 0
    table(
        Row(GROUP, f"{MANY:,} connections at once", promised, "kept" if good else "WRONG", happened)
    )
    assert answered["answers"] == {"200": idle}
    assert ends == {"complete": ACTIVE}
    assert in_flight == 0
    assert each < KILOBYTES
    assert middle < LATEST


async def test_no_files_are_left(small: Backend, tmp_path: Path, table: Table) -> None:
    """A gateway that may open few files, and clients that take them all."""
    tree = config({"small": small}, limits={"client": 300}, health={"every": 0.2})
    async with served(tree, tmp_path, limits=few_files) as running:
        address = running.url.removeprefix("http://").split(":")
        pairs = [await asyncio.open_connection(*address) for _ in range(2 * FEW)]
        async with asyncio.timeout(30):
            while running.files < FEW - 2:
                await asyncio.sleep(0.05)
        reader, writer = pairs[0]
        body = json.dumps({"model": "small", "messages": []}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        status = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).split()[1]
        await asyncio.sleep(1.0)  # several health checks that cannot be made
        for _, one in pairs:
            one.transport.abort()
        await flat(running, FEW // 2)
        async with wire(running.url) as alone:
            await alone.send(head % len(body) + body)
            after = (await alone.answer())[0]
        async with http(running.url) as client:
            ready = (await client.get("/readyz")).json()["models"]["small"]
        said = len(running.said)
    happened = f"a call that needs one: {status.decode()}; after they left: {after}, {ready}"
    good = after == 200 and status in (b"503", b"200") and set(ready.values()) == {"healthy"}
    promised = "503 while it lasts, the backends are not blamed, and all is well after"
    table(
        Row(
            GROUP,
            f"{2 * FEW} clients, {FEW} files",
            promised,
            "kept" if good else "WRONG",
            happened,
        )
    )
    assert after == 200
    assert status in (b"503", b"200")
    assert set(ready.values()) == {"healthy"}
    assert said < 100_000, "every connection that was not taken is complained of"
