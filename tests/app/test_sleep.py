"""Servers that sleep in turns: the embedded server's real sleep mode behind the whole gateway.

Two servers share a host whose memory is enough for one. Whatever is asked of them is answered, and
never are both awake, as they say themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from router.observe import SleepChanged
from tests.conftest import Started
from tests.pair.conftest import MODELS, server
from tests.running import Config, Running, config, model

HOST = {"hosts": {"127.0.0.1": {"memory_gb": 10}}}
QUICK = {"residence": 0.05, "wake": 0.1}
OFTEN = {"health": {"every": 0.2}}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """The URLs of two servers of one model each, by its name."""
    with ExitStack() as stack:
        yield {
            name: str(
                stack.enter_context(
                    server(
                        *("--model", str(MODELS / name)),
                        *("--served-model-name", name, "--sleep-mode"),
                    )
                ).base_url
            ).rstrip("/")
            for name in ("small", "large")
        }


@pytest.fixture(params=[1, 2])
async def slept(servers: dict[str, str], request: pytest.FixtureRequest) -> dict[str, Any]:
    """A configuration of them; at its begin only `small` is awake."""
    level: int = request.param
    async with httpx.AsyncClient() as client:
        for url in servers.values():
            await client.post(f"{url}/wake_up")
            await client.post(f"{url}/collective_rpc", json={"method": "reload_weights"})
        await client.post(f"{servers['large']}/sleep", params={"level": level})
    return sleeping(servers, level=level)


def sleeping(servers: dict[str, str], **settings: Any) -> Config:
    tree = config(servers, **HOST, **OFTEN)
    for name, url in servers.items():
        sleep = {**QUICK, **settings}
        tree["models"][name] = model(url, memory_gb=6, sleep=sleep)
    return tree


class Poll:
    """What the servers say, looked at again and again: how many were awake at most."""

    def __init__(self) -> None:
        self.most = 0
        self.looks = 0

    async def watch(self, urls: list[str]) -> None:
        async with httpx.AsyncClient() as client:
            while True:
                told = [(await client.get(f"{url}/is_sleeping")).json() for url in urls]
                # One after the other: a server asked first may sleep before the next one wakes,
                # never the other way round, so what is counted is not more than was awake.
                self.most = max(self.most, sum(not each["is_sleeping"] for each in told))
                self.looks += 1

    @asynccontextmanager
    async def over(self, urls: list[str]) -> AsyncIterator[Poll]:
        both = [urls, urls[::-1]]
        tasks = [asyncio.create_task(self.watch(order)) for order in both]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


def changes(gateway: Running) -> list[tuple[str, str]]:
    return [(each.model, each.change) for each in gateway.seen if isinstance(each, SleepChanged)]


async def test_both_are_answered_and_never_are_both_awake(
    slept: Config, gateway: Started, servers: dict[str, str]
) -> None:
    running = await gateway(slept)
    asked = ["small", "large"] * 6
    async with Poll().over(list(servers.values())) as poll:
        answers = await asyncio.gather(
            *(running.post(model=name, max_tokens=4, temperature=0) for name in asked)
        )
        again = await running.post(model="small", max_tokens=4)
    assert [answer.status_code for answer in [*answers, again]] == [200] * 13
    assert [answer.json()["model"] for answer in answers] == asked
    assert poll.looks > 2
    assert poll.most == 1
    told = changes(running)
    assert told[:2] == [("small", "slept"), ("large", "woken")]
    assert told[-2:] == [("large", "slept"), ("small", "woken")]
    assert running.in_flight() == 0
