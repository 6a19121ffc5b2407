"""A storm: many clients, three models, memory for one or two, and a quarter of the clients leave.

The servers are scripted and in this process, so what must never happen is seen in the moment in
which it would: a call at a server that sleeps, a server put to sleep with a call, too much awake.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx
import pytest

from router.observe import SleepChanged
from tests.conftest import Started
from tests.running import Config, Running, config, eventually, model
from tests.scripted import Backend, Call, chat_answer, scripted
from tests.sleepers import Sleeper

NAMES = ("small", "middle", "large")
MEMORY = {"small": 5, "middle": 6, "large": 7}
BUDGET = 11
CALLS = 90
TURNS = 40
"""Turns of the event loop that an answer takes at most."""
LATEST = 2000
"""Turns of the event loop after which the last client comes."""


@dataclass(slots=True)
class Host:
    """The servers and what they hold; `mistakes` is what must never happen and did."""

    sleepers: dict[str, Sleeper] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)

    def add(self, name: str, backend: Backend, rng: random.Random) -> None:
        sleeper = Sleeper(backend, sleeping=name != "small")
        self.sleepers[name] = sleeper
        usual = backend.asked

        async def asked(call: Call) -> None:
            if call.path.startswith("/sleep") and backend.open:
                self.mistakes.append(f"{name} was put to sleep with {backend.open} calls")
            if call.path.startswith("/wake_up"):
                self._woken(name)
            if call.path.startswith("/v1/completions") and sleeper.sleeping:
                self.mistakes.append(f"{name} was probed in its sleep")
            await usual(call)

        async def answer(call: Call) -> None:
            for _ in range(rng.randrange(TURNS)):
                if sleeper.sleeping:
                    self.mistakes.append(f"{name} has a call and sleeps")
                await asyncio.sleep(0)
            await call.whole(str.encode(httpx.Response(200, json=chat_answer("Hi", name)).text))

        backend.asked = asked
        backend.plays(answer)

    def _woken(self, name: str) -> None:
        awake = {n for n, sleeper in self.sleepers.items() if not sleeper.sleeping} | {name}
        if sum(MEMORY[each] for each in awake) > BUDGET:
            self.mistakes.append(f"awake together: {sorted(awake)}")


def turns(host: Host, level: int) -> Config:
    tree = config({name: each.backend for name, each in host.sleepers.items()})
    sleep = {"level": level, "residence": 0.01, "wake": 0.01}
    for name, each in host.sleepers.items():
        tree["models"][name] = model(each.backend, memory_gb=MEMORY[name], sleep=sleep)
    return {**tree, "hosts": {"127.0.0.1": {"memory_gb": BUDGET}}}


async def client(running: Running, name: str, comes: int, leaves: int | None) -> int | None:
    """One client; it comes, and may leave, after so many turns of the loop. Its answer's status."""
    for _ in range(comes):
        await asyncio.sleep(0)
    asking = asyncio.create_task(running.post(model=name))
    if leaves is not None:
        for _ in range(leaves):
            await asyncio.sleep(0)
        if asking.cancel():
            await asyncio.gather(asking, return_exceptions=True)
            return None
    status: int = (await asking).status_code
    return status


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_in_a_storm_everybody_is_served_and_no_rule_is_broken(
    gateway: Started, seed: int
) -> None:
    rng = random.Random(seed)
    host = Host()
    async with AsyncExitStack() as stack:
        for name in NAMES:
            host.add(name, await stack.enter_async_context(scripted(name)), rng)
        running = await gateway(turns(host, level=1 + seed % 2))
        clients = []
        for _ in range(CALLS):
            leaves = rng.randrange(4 * TURNS) if rng.random() < 1 / 4 else None
            clients.append(client(running, rng.choice(NAMES), rng.randrange(LATEST), leaves))
        statuses = await asyncio.gather(*clients)
        await eventually(lambda: running.in_flight() == 0)
        pools = running.rooms.revisions.runtime.pools.values()
        await eventually(lambda: not any(pool.waiting for pool in pools))
    assert host.mistakes == []
    assert {status for status in statuses if status is not None} == {200}
    woken = {each.model for each in running.seen if isinstance(each, SleepChanged)}
    assert woken == set(NAMES)
