"""Servers that sleep in turns: the embedded server's real sleep mode behind the whole gateway.

Two servers share a host whose memory is enough for one. Whatever is asked of them is answered, and
never are both awake, as they say themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from router.observe import SleepChanged
from tests.conftest import Started
from tests.pair.conftest import MODELS, server
from tests.running import Config, Running, config, model

HOST = {"hosts": {"127.0.0.1": {"memory_gb": 10}}}
QUICK = {"residence": 0.25, "wake": 0.1}
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


@dataclass(slots=True)
class Poll:
    """What the two servers say of themselves, looked at again and again.

    `both` counts looks at which both were awake: the second one, and the first before and after it.
    Between these the first cannot have slept and woken, since the second one's residence is longer.
    """

    looks: int = 0
    both: int = 0

    async def watch(self, first: str, second: str) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def awake(url: str) -> bool:
                return not (await client.get(f"{url}/is_sleeping")).json()["is_sleeping"]

            while True:
                self.both += all([await awake(url) for url in (first, second, first)])
                self.looks += 1

    @asynccontextmanager
    async def over(self, first: str, second: str) -> AsyncIterator[Poll]:
        watching = [self.watch(first, second), self.watch(second, first)]
        tasks = [asyncio.create_task(watch) for watch in watching]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
            assert self.looks > len(tasks)
            assert self.both == 0


def changes(gateway: Running) -> list[tuple[str, str]]:
    return [(each.model, each.change) for each in gateway.seen if isinstance(each, SleepChanged)]


async def test_both_are_answered_in_turn_and_never_are_both_awake(
    slept: Config, gateway: Started, servers: dict[str, str]
) -> None:
    running = await gateway(slept)
    asked = ["small", "large"] * 6
    async with Poll().over(*servers.values()):
        answers = await asyncio.gather(
            *(running.post(model=name, max_tokens=4, temperature=0) for name in asked)
        )
        again = await running.post(model="small", max_tokens=4)
    assert [answer.status_code for answer in [*answers, again]] == [200] * 13
    assert [answer.json()["model"] for answer in answers] == asked
    told = changes(running)
    assert told[:2] == [("small", "slept"), ("large", "woken")]
    assert told[-2:] == [("large", "slept"), ("small", "woken")]
    assert running.in_flight() == 0


async def test_streams_are_whole_though_others_want_the_memory(
    slept: Config, gateway: Started, servers: dict[str, str]
) -> None:
    running = await gateway(slept)
    asked = ["small", "large", "small", "large"]
    long = {"max_tokens": 150, "ignore_eos": True, "temperature": 0}
    async with Poll().over(*servers.values()):
        streams = await asyncio.gather(
            *(
                running.streamed(model=name, stream_options={"include_usage": True}, **long)
                for name in asked
            )
        )
    assert all(stream.endswith(b"[DONE]\n\n") for stream in streams)
    assert all(b'"completion_tokens":150' in stream for stream in streams)


async def test_what_it_answers_is_the_same_after_it_slept(
    slept: Config, gateway: Started, servers: dict[str, str]
) -> None:
    running = await gateway(slept)
    exact: dict[str, Any] = {"temperature": 0, "max_tokens": 40}
    before = await running.post(model="small", **exact)
    await running.post(model="large", **exact)
    after = await running.post(model="small", **exact)
    assert ("small", "slept") in changes(running)
    told = [answer.json()["choices"][0]["message"]["content"] for answer in (before, after)]
    assert told[0] == told[1] != ""


async def test_a_policy_that_asks_one_model_after_the_other(
    slept: Config, gateway: Started, servers: dict[str, str]
) -> None:
    """The draft's server must be free to sleep once the draft is complete."""
    cascade = {"use": "cascade", "small": "small", "large": "large", "mean_logprob": 0.0}
    running = await gateway({**slept, "policies": {"auto": cascade}, "default": "auto"})
    async with Poll().over(*servers.values()):
        answer = await running.post(model="auto", max_tokens=8)
    assert answer.status_code == 200
    assert answer.headers["x-tandem-models"] == "large=8"


async def test_two_models_that_write_in_turns_get_there_slowly(
    slept: Config, gateway: Started, servers: dict[str, str]
) -> None:
    both = {"use": "token_gate", "small": "small", "large": "large", "rule": "random", "rate": 0.1}
    running = await gateway({**slept, "policies": {"auto": both}, "default": "auto"})
    answer = await running.post(model="auto", max_tokens=12, ignore_eos=True, seed=3)
    assert answer.status_code == 200, answer.text
