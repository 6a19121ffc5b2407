"""A crowd of clients, as a process of its own: many connections at once, and how each fared.

    python -m tests.faults.crowd URL IDLE ACTIVE

It opens all of them, lets the active ones ask for a stream that its backend holds back, and writes
a line to standard output at each stage; it goes on when it reads one. It ends with the idle ones,
of which each asks once, and the active ones, whose streams are read to their ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from urllib.parse import urlsplit

import uvloop

from app.start import open_more_files
from tests.running import request

AT_ONCE = 400
"""Connections being made at once."""
PATIENCE = 60.0
CARDS = b"GET /v1/models HTTP/1.1\r\nhost: tandem\r\n\r\n"
STREAM = request({"model": "small", "messages": [], "stream": True}, "connection: close")

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(address: tuple[str, int], number: int) -> list[Pair]:
    """So many connections."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one() -> Pair:
        async with turns:
            return await asyncio.open_connection(*address)

    return list(await asyncio.gather(*(one() for _ in range(number))))


async def ask(pair: Pair) -> str:
    """One question on a connection that has been idle."""
    reader, writer = pair
    try:
        writer.write(CARDS)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        return head.split()[1].decode()
    except (OSError, EOFError, TimeoutError) as error:
        return type(error).__name__


async def begin(pair: Pair) -> None:
    """A stream's first piece."""
    reader, writer = pair
    writer.write(STREAM)
    await asyncio.wait_for(reader.readuntil(b"first"), PATIENCE)


async def finish(pair: Pair) -> str:
    """All the rest of it."""
    try:
        rest = await asyncio.wait_for(pair[0].read(), PATIENCE)
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    return "complete" if b"data: [DONE]\n\n" in rest else "broken"


async def stage(said: object) -> None:
    """Tell how far it is, and wait for the word to go on."""
    print(json.dumps(said), flush=True)
    await asyncio.to_thread(sys.stdin.readline)


async def main(url: str, idle: int, active: int) -> None:
    """The whole visit."""
    open_more_files()
    place = urlsplit(url)
    began = time.monotonic()
    pairs = await opened((str(place.hostname), int(place.port or 0)), idle + active)
    quiet, busy = pairs[:idle], pairs[idle:]
    await stage({"opened": len(pairs), "seconds": time.monotonic() - began})
    await asyncio.gather(*map(begin, busy))
    await stage({"begun": len(busy)})
    began = time.monotonic()
    answers = Counter(await asyncio.gather(*map(ask, quiet)))
    took = time.monotonic() - began
    await stage({"answers": answers, "seconds": took})
    ends = Counter(await asyncio.gather(*map(finish, busy)))
    for _, writer in pairs:
        writer.transport.abort()
    await stage({"ends": ends})


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
