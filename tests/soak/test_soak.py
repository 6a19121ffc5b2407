"""The soak: thousands of answers by two models, while clients leave and servers die.

Two servers of each model, and a gateway in front of them in this process, so that what it leaves
behind can be counted: calls, tasks, objects, memory. Deaths come after so many answers, not after a
time: one server, both of a model, or all four; each comes back on its port after some more answers.
The whole is drawn from a seed, as far as chance between processes allows.

    make soak ARGS="--soak-answers 1000 --soak-seed 7"
"""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import aiohttp
import pytest

from policies.duet.page import Page
from router.call import Call
from router.engine import Drive
from router.faults import Blame
from router.ledger import Ledger
from router.observe import RequestEnded
from tests.running import Config, Running, config, eventually, running
from tests.soak.asking import MOST, STOPS, Asked, many, policies, prompts, rendered
from tests.soak.hearing import Heard, Said, ask
from tests.soak.judging import Judge
from tests.soak.reckoning import Ended, Reckoning
from tests.soak.servers import Server, by_model, missing, started

QUESTIONS = 24
AT_ONCE = 24
BETWEEN_DEATHS = (60, 160)
"""Answers from one death to the next."""
DEAD = (5, 30)
"""Answers that a server is dead for."""
VICTIMS = (0.7, 0.2, 0.1)
"""Chances that one server dies, both of one model, all."""
WARM = 0.2
"""Share of the answers after which memory is looked at first: pools and caches are full then."""
GROWTH_MB = 24.0
"""Most that the process may have grown by at the end. Its allocator keeps what a crowd once took;
a page of an answer that is never let go of, some 20 KB, shows after a thousand answers."""
KINDS = (Drive, Ledger, Call, Page)
"""What is made for every request, and must be gone after it."""

pytestmark = [missing, pytest.mark.soak, pytest.mark.xdist_group("pair")]


def soaked(servers: Sequence[Server]) -> Config:
    """A gateway that finds out soon that a server is dead, and soon that it is back."""
    return config(
        by_model(servers),
        policies=policies(),
        health={"every": 0.25, "timeout": 5},
        breaker={"wait": 0.25, "longest": 1},
        limits={"retry_floor": 1000},
    )


@dataclass(slots=True)
class Deaths:
    """Servers that die and come back as the answers go by."""

    servers: Sequence[Server]
    gateway: Running
    draw: Random
    answers: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    since: float = 0.0
    """Until when (monotonic) some server was not well."""

    def disturbed(self, began: float) -> bool:
        """Whether a server was not well at any time since `began`."""
        return not self._well() or self.since >= began

    async def go_on(self) -> None:
        """Let servers die and come back, until cancelled."""
        while True:
            await self._answered(self.draw.randint(*BETWEEN_DEATHS))
            victims = self._victims()
            self.since = time.monotonic()
            for server in victims:
                self.killed[server.model] += 1
                await server.kill()
            await self._answered(self.draw.randint(*DEAD))
            await asyncio.gather(*(server.start() for server in victims))
            await self._settle()

    def _victims(self) -> list[Server]:
        (how,) = self.draw.choices(range(len(VICTIMS)), VICTIMS)
        one = self.draw.choice(self.servers)
        return [[one], [s for s in self.servers if s.model == one.model], list(self.servers)][how]

    async def _answered(self, more: int) -> None:
        until = self.answers + more
        while self.answers < until:
            await asyncio.sleep(0.01)

    async def _settle(self) -> None:
        """Until the gateway knows that all are back."""
        while not self._well():
            await asyncio.sleep(0.01)
        self.since = time.monotonic()

    def _well(self) -> bool:
        pools = self.gateway.rooms.revisions.runtime.pools.values()
        seen = all(backend.state == "healthy" for pool in pools for backend in pool.backends)
        return seen and all(server.up for server in self.servers)

    async def end(self) -> None:
        """Bring all back."""
        await asyncio.gather(*(server.start() for server in self.servers if not server.up))
        await self._settle()


@dataclass(slots=True)
class Soak:
    """One run: clients take the next request as soon as they have had an answer."""

    gateway: Running
    client: aiohttp.ClientSession
    questions: Sequence[str]
    deaths: Deaths
    ended: list[Ended] = field(default_factory=list)
    broken: dict[str, bool] = field(default_factory=dict)

    async def run(self, asked: Iterator[Asked]) -> None:
        """Ask all of these, so many at once."""
        await asyncio.gather(*(self._one_client(asked) for _ in range(AT_ONCE)))

    async def _one_client(self, asked: Iterator[Asked]) -> None:
        for each in asked:
            began = time.monotonic()
            heard = await ask(self.client, each.body(self.questions), each.leaving)
            disturbed = self.deaths.disturbed(began)
            broken = False if heard.left else await self._broken(heard)
            self.ended.append(Ended(each, heard, disturbed, broken))
            self.deaths.answers += 1

    async def _broken(self, heard: Heard) -> bool:
        """Whether a backend failed during this answer, by what the gateway observed."""
        async with asyncio.timeout(10):
            while heard.id not in self.broken:
                self._look()
                await asyncio.sleep(0)
        return self.broken.pop(heard.id)

    def _look(self) -> None:
        """Keep what is wanted of the observations, and let go of them."""
        for seen in self.gateway.seen:
            if isinstance(seen, RequestEnded):
                blames = {attempt.blame for attempt in seen.attempts}
                self.broken[seen.id] = bool(blames & {Blame.BACKEND, Blame.BUSY})
        self.gateway.seen.clear()


async def references(
    client: aiohttp.ClientSession, questions: Sequence[str], plan: Sequence[Asked]
) -> dict[Asked, Said]:
    """The answer that each request of the plan gets alone, while all is well; asked once each."""
    wanted = {each.alone for each in plan}
    wanted |= {Asked(each.question, "large", each.most, each.stop) for each in wanted}
    found = {}
    for each in sorted(wanted, key=repr):
        heard = await ask(client, each.body(questions))
        assert heard.complete, heard
        found[each] = heard.choice(0)
    return found


@asynccontextmanager
async def soaking(seed: int) -> AsyncIterator[Soak]:
    """Four servers, a gateway, a client."""
    async with (
        started("small", "small", "large", "large") as servers,
        running(soaked(servers)) as gateway,
        aiohttp.ClientSession(gateway.url, connector=aiohttp.TCPConnector(limit=0)) as client,
    ):
        yield Soak(gateway, client, prompts(QUESTIONS), Deaths(servers, gateway, Random(seed)))


def resident() -> float:
    """MB that the process holds now, or has held at most where the system does not tell."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def left_over() -> Counter[str]:
    """Objects of requests that are still alive."""
    gc.collect()
    return Counter(type(o).__name__ for o in gc.get_objects() if isinstance(o, KINDS))
