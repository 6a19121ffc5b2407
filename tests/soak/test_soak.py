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
from itertools import islice, product
from math import inf
from pathlib import Path
from random import Random
from typing import NoReturn

import aiohttp
import pytest
from tqdm import tqdm

from policies.duet.page import Page
from router.call import Call
from router.engine import Drive
from router.faults import Blame
from router.ledger import Ledger
from router.observe import RequestEnded
from tests.running import Config, Running, config, eventually, running
from tests.soak.asking import POLICIES, WHOLE, Asked, many, policies, prompts, rendered
from tests.soak.hearing import Heard, Said, ask, session
from tests.soak.judging import Judge
from tests.soak.reckoning import Ended, Reckoning
from tests.soak.servers import Server, by_model, missing, started

QUESTIONS = 24
AT_ONCE = 24
BETWEEN_DEATHS = (60, 160)
"""Answers from one death to the next."""
DEAD = (5, 30)
"""Answers that a server is dead for."""
PAUSE = 1.0
"""Seconds before a client whose answer failed asks again; without them, a dead gateway's thousand
quick refusals would be most of the answers."""
VICTIMS = (0.7, 0.2, 0.1)
"""Chances that one server dies, both of one model, all."""
WARM = 0.2
"""Share of the answers after which memory is looked at first: pools and caches are full then."""
GROWTH_MB = 24.0
"""Most that the process may have grown by at the end. Its allocator keeps what a crowd once took;
a page of an answer that is never let go of, some 20 KB, shows after a thousand answers."""
SHOWN = 5
"""Of what is wrong: the rest is mostly the same."""
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
    over: bool = False
    killed: Counter[str] = field(default_factory=Counter)
    _unwell: dict[str, float] = field(default_factory=dict)
    """By address, until when (monotonic) a server that died was not taken for well again."""

    def unwell(self, began: float) -> dict[str, int]:
        """How many servers of each model were not well at some time since `began`."""
        unwell = (s for s in self.servers if self._unwell.get(s.url, -inf) >= began)
        return Counter(server.model for server in unwell)

    async def go_on(self) -> None:
        """Let servers die and come back, until all is `over`; in the end, all are back."""
        while not self.over:
            await self._answered(self.draw.randint(*BETWEEN_DEATHS))
            if self.over:
                return
            victims = self._victims()
            self._unwell.update((server.url, inf) for server in victims)
            for server in victims:
                self.killed[server.model] += 1
                await server.kill()
            await self._answered(self.draw.randint(*DEAD))
            await asyncio.gather(*(server.start() for server in victims))
            while not all(map(self._well, victims)):
                await asyncio.sleep(0.01)
            self._unwell.update((server.url, time.monotonic()) for server in victims)

    def _victims(self) -> list[Server]:
        (how,) = self.draw.choices(range(len(VICTIMS)), VICTIMS)
        one = self.draw.choice(self.servers)
        return [[one], [s for s in self.servers if s.model == one.model], list(self.servers)][how]

    async def _answered(self, more: int) -> None:
        until = self.answers + more
        while self.answers < until and not self.over:
            await asyncio.sleep(0.01)

    def _well(self, server: Server) -> bool:
        """Whether the gateway sees that it is back; its breaker closes with the next call."""
        pool = self.gateway.rooms.revisions.runtime.pools[server.model]
        (backend,) = (backend for backend in pool.backends if backend.url == server.url)
        return backend.state == "healthy" or (self.over and backend.healthy and backend.probed)


@dataclass(slots=True)
class Soak:
    """One run: clients take the next request as soon as they have had an answer."""

    gateway: Running
    client: aiohttp.ClientSession
    questions: Sequence[str]
    deaths: Deaths
    reckoning: Reckoning
    bar: tqdm[NoReturn]
    broken: dict[str, bool] = field(default_factory=dict)

    async def run(self, asked: Iterator[Asked]) -> None:
        """Ask all of these, so many at once."""
        await asyncio.gather(*(self._one_client(asked) for _ in range(AT_ONCE)))

    async def _one_client(self, asked: Iterator[Asked]) -> None:
        for each in asked:
            began = time.monotonic()
            heard = await ask(self.client, each.body(self.questions), each.leaving)
            unwell = self.deaths.unwell(began)
            broken = False if heard.left else await self._broken(heard)
            self.deaths.answers += 1
            await asyncio.to_thread(self.reckoning.add, Ended(each, heard, unwell, broken))
            self.bar.update()
            if heard.error is not None:
                await asyncio.sleep(PAUSE)  # the client's pace, not the test's

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
    client: aiohttp.ClientSession, questions: Sequence[str]
) -> dict[tuple[int, str], Said]:
    """The whole answer that each policy gives to each question alone, while all is well."""
    found = {}
    for question, policy in product(range(len(questions)), POLICIES):
        heard = await ask(client, Asked(question, policy, WHOLE).body(questions))
        assert heard.complete, heard
        found[question, policy] = heard.choice(0)
    return found


@asynccontextmanager
async def soaking(number: int, seed: int) -> AsyncIterator[Soak]:
    """Four servers, a gateway, a client, and what is right."""
    questions, judge = prompts(QUESTIONS), Judge()
    async with (
        started("small", "small", "large", "large") as servers,
        running(soaked(servers)) as gateway,
        session(gateway.url) as client,
    ):
        alone = await references(client, questions)
        gateway.seen.clear()
        tokens = await rendered(servers[0], questions)
        for question, prompt in enumerate(tokens):
            alone[question, "large"] = judge.answer("large", prompt, WHOLE)
        deaths = Deaths(servers, gateway, Random(seed))
        reckoning = Reckoning(judge, tokens, alone)
        with tqdm(total=number, unit=" answers", disable=None) as bar:
            yield Soak(gateway, client, questions, deaths, reckoning, bar)


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


@pytest.mark.timeout(7200)  # 10,000 answers take minutes on two idle cores, and these are busy
async def test_nothing_is_lost_doubled_mixed_or_left_behind(
    pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    number, seed = pytestconfig.getoption("soak_answers"), pytestconfig.getoption("soak_seed")
    plan = many(number, QUESTIONS, seed)
    with capsys.disabled():
        async with soaking(number, seed) as soak:
            tasks, began = len(asyncio.all_tasks()), time.monotonic()
            dying = asyncio.create_task(soak.deaths.go_on())
            await soak.run(islice(plan, int(number * WARM)))
            warm = resident()
            await soak.run(plan)
            took, grown = time.monotonic() - began, resident() - warm
            soak.deaths.over = True
            await dying
            await eventually(lambda: soak.gateway.in_flight() == 0)
            idle = [await server.idle() for server in soak.deaths.servers]
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
            left = left_over()
        killed = ", ".join(f"{n} x {model}" for model, n in soak.deaths.killed.items())
        print(f"\n{soak.reckoning.table()}")
        print(f"{number} answers in {took:.0f} s, seed {seed}; killed: {killed}; {grown:+.1f} MB")
    assert soak.reckoning.counts.total() == number
    kinds = Counter(why.split("\n")[0] for why in soak.reckoning.wrong)
    assert not kinds, "\n".join([str(kinds), *soak.reckoning.wrong[:SHOWN]])
    assert all(idle)
    assert not left
    assert grown < GROWTH_MB
