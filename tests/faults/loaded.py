"""A constant load: clients that ask again and again, each answer counted by how it ended.

Every request carries a word of its own, so that its backend can tell how often it was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tests.running import request, wire
from tests.scripted import Call, vllm

HEAD_END = b"\r\n\r\n"
DONE = b"data: [DONE]"
PATIENCE = 30.0
WORDS = count()


@dataclass(slots=True)
class Answers:
    """How requests ended, and when: seconds of `time.monotonic`."""

    ended: list[tuple[float, str, str]] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)

    def counts(self, since: float = 0.0, until: float = float("inf")) -> Counter[str]:
        """Ends between these times."""
        return Counter(end for at, end, _ in self.ended if since <= at < until)

    def twice(self) -> list[str]:
        """Words that a backend was asked for more than once."""
        return [word for word, times in self.asked.items() if times > 1]

    async def script(self, call: Call) -> None:
        """A backend that answers, and counts."""
        self.asked[call.json["user"]] += 1
        await vllm(call)


async def once(url: str, model: str, *headers: str, stream: bool) -> tuple[str, str]:
    """One request on a connection of its own: its word, and how it ended."""
    word = f"w{next(WORDS)}"
    body = {"model": model, "messages": [], "stream": stream, "user": word}
    try:
        async with asyncio.timeout(PATIENCE), wire(url) as client:
            await client.send(request(body, "connection: close", *headers))
            got = await client.rest()
    except TimeoutError:
        return word, "no end"
    except OSError:
        return word, "broken"
    if not got:
        return word, "broken"
    status = got.split()[1].decode()
    if status != "200":
        return word, f"{status} {_code(got)}"
    whole = DONE in got if stream else _is_whole(got)
    if whole:
        return word, "complete"
    return word, "ended" if b'"error"' in got else "cut off"


def _code(got: bytes) -> str:
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return str(json.loads(got.partition(HEAD_END)[2])["error"]["code"])
    return "?"


def _is_whole(got: bytes) -> bool:
    with contextlib.suppress(ValueError):
        return "choices" in json.loads(got.partition(HEAD_END)[2])
    return False


@asynccontextmanager
async def loaded(
    url: str, clients: int, *models: str, headers: tuple[str, ...] = (), pause: float = 0.0
) -> AsyncIterator[Answers]:
    """So many clients, until the end of the block; then those under way are heard to their end."""
    answers, over = Answers(), asyncio.Event()

    async def one(number: int) -> None:
        for turn in count(number):
            if over.is_set():
                return
            model = models[turn % len(models)]
            word, end = await once(url, model, *headers, stream=bool(turn // len(models) % 2))
            answers.ended.append((time.monotonic(), end, word))
            if pause:
                await asyncio.sleep(pause)

    tasks = [asyncio.create_task(one(number)) for number in range(clients)]
    try:
        yield answers
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def until(holds: Callable[[], Awaitable[Any]], seconds: float = PATIENCE) -> None:
    """Wait until this is so."""
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.05)


def told(counts: Counter[str]) -> str:
    """Counts in words."""
    return ", ".join(f"{number:,} {end}" for end, number in counts.most_common()) or "nothing"
