"""An hour at half load, made as short as CI allows: memory, files and guards stay as they are."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import Table
from tests.faults.policies import DEADLINE, POLICIES, body, tree
from tests.faults.report import Row
from tests.faults.served import LINUX, Served, served
from tests.running import CHAT, NO_TLS
from tests.soak.servers import missing

SECONDS = float(os.environ.get("TANDEM_SOAK_SECONDS", "150"))
"""How long the short hour is."""
MEASURED = 10.0
"""Seconds in which is found out how much the pair can do."""
AT_ONCE = 8
MOST_AT_ONCE = 64
WARM = 0.5
"""Share of the hour after which memory is watched: caches are full then, and the collector, which
looks seldom, has looked at what is old, too."""
MOST = 8
"""Tokens of an answer: the more answers, the more a leak shows."""
EVERY = 0.5
"""Seconds between two looks."""
GROWTH_KB = 1.0
"""Most by which memory may grow with an answer, at the lower end of the 95 % interval: what is kept
of one by mistake, its page or its ledger, has some 20."""
ONCE = httpx.Limits(max_keepalive_connections=0)
"""A connection that is kept may be closed for its idleness just when it is used again."""
MORE_FILES = 12
"""Connections come and go."""

pytestmark = [
    missing,
    pytest.mark.faults,
    pytest.mark.timeout(SECONDS + 300),
    pytest.mark.skipif(not LINUX, reason="looks into /proc"),
]


@dataclass(slots=True)
class Hour:
    """One run: answers asked for and failed, and what was seen of the process meanwhile."""

    gateway: Served
    client: httpx.AsyncClient
    asked: int = 0
    failed: int = 0
    memory: list[tuple[float, float]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    async def ask(self, number: int) -> None:
        """One answer, by each policy in turn, streamed and not."""
        policies = list(POLICIES)
        turn, which = divmod(number, len(policies))
        asked = body(policies[which], stream=bool(turn % 2)) | {"max_tokens": MOST}
        answer = await self.client.post(CHAT, json=asked)
        self.failed += answer.status_code != 200 or b'"error"' in answer.content

    async def rush(self) -> float:
        """Answers in a second, if so many clients ask as fast as they can."""
        began, numbers = time.monotonic(), count()

        async def one() -> None:
            while time.monotonic() - began < MEASURED:
                await self.ask(next(numbers))

        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
        return next(numbers) / (time.monotonic() - began)

    async def run(self, rate: float) -> None:
        """Ask at this rate, but not more than `MOST_AT_ONCE`: others may want the machine, too."""
        began, due = time.monotonic(), 0.0
        watching = asyncio.create_task(self.watch())
        asking: set[asyncio.Task[None]] = set()
        while (passed := time.monotonic() - began) < SECONDS:
            if due <= passed and len(asking) < MOST_AT_ONCE:
                task = asyncio.create_task(self.ask(self.asked))
                asking.add(task)
                task.add_done_callback(asking.discard)
                self.asked, due = self.asked + 1, max(due, passed - 1) + 1 / rate
            await asyncio.sleep(0.2 / rate)
        await asyncio.gather(*asking)
        watching.cancel()

    async def watch(self) -> None:
        """Look at the process again and again."""
        await asyncio.sleep(SECONDS * WARM)
        while True:
            self.memory.append((time.monotonic(), self.gateway.megabytes))
            self.files.append(self.gateway.files)
            await asyncio.sleep(EVERY)


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """By how much the second grows with the first, and half of the 95 % interval of that."""
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    found = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    left = sum((y - mean_y - found * (x - mean_x)) ** 2 for x, y in points)
    return found, 1.96 * math.sqrt(left / (len(points) - 2) / spread)


async def test_an_hour_made_short(
    servers: list[tuple[str, str]], tmp_path: Path, table: Table
) -> None:
    patience = httpx.Timeout(DEADLINE + 2)
    async with (
        served(tree(servers), tmp_path) as gateway,
        httpx.AsyncClient(
            base_url=gateway.url, limits=ONCE, verify=NO_TLS, timeout=patience
        ) as client,
    ):
        hour = Hour(gateway, client)
        rate, before = await hour.rush() / 2, gateway.files
        await hour.run(rate)
        async with asyncio.timeout(30):
            while gateway.files > before + MORE_FILES:
                await asyncio.sleep(EVERY)
        in_flight = await gateway.metric("tandem_in_flight")
    grown, interval = (3600 * each for each in slope(hour.memory))
    happened = (
        f"{hour.asked:,} answers at {rate:.0f} a second, {hour.failed} failed; memory {grown:+.1f} "
        f"\u00b1 {interval:.1f} MB an hour; {max(hour.files)} files at most, after it as before; "
        f"{in_flight:.0f} in flight"
    )
    each = (grown - interval) / 3.6 / rate
    good = not hour.failed and in_flight == 0 and each < GROWTH_KB
    table(
        Row(
            "Soak",
            f"half load over all policies, {SECONDS:.0f} s",
            "all answered; memory and files stay; nothing is in flight after",
            "kept" if good else "WRONG",
            happened,
        )
    )
    assert good, happened
