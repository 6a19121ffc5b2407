"""Health over real sockets: who is well, who is not, who is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from policies import TABLE
from router.backend import Backend as Watched
from router.config import Form, parse
from router.health import Health
from router.observe import BackendChanged, Observation
from router.runtime import Runtime, build
from tests.running import Config, config, eventually, refusing
from tests.scripted import Backend, Call, Script, answers

OFTEN = {"every": 0.01, "timeout": 0.2}


def runtime_of(tree: Config, previous: Runtime | None = None) -> Runtime:
    return build(parse(json.dumps(tree), TABLE, "test", Form.JSON), TABLE, 1, previous, {})


async def hangs(call: Call) -> None:
    await call.gone.wait()


@asynccontextmanager
async def watching(tree: Config) -> AsyncIterator[tuple[Health, Runtime, list[BackendChanged]]]:
    changes: list[BackendChanged] = []

    def listen(observation: Observation) -> None:
        assert isinstance(observation, BackendChanged)
        changes.append(observation)

    health, runtime = Health(listen), runtime_of(tree)
    health.follow(runtime)
    try:
        async with asyncio.timeout(10):
            await health.probed()
        yield health, runtime, changes
    finally:
        await health.close()


async def drips(call: Call) -> None:
    """An answer that goes on and on, a byte at a time."""
    await call.head(kind="application/json")
    while not call.gone.is_set():
        await call.chunk(b" ")
        await asyncio.sleep(0.01)


async def pours(call: Call) -> None:
    """One that goes on and on, as fast as it is taken."""
    await call.head(kind="application/json")
    while not call.gone.is_set():
        await call.chunk(b" " * 65_536)


def cards(*said: Any) -> Script:
    """Models as no server lists them."""
    return answers({"data": [*said]})


def only(runtime: Runtime) -> Watched:
    (pool,) = runtime.pools.values()
    (backend,) = pool.backends
    return backend


def instead(backend: Backend, path: str, script: Script) -> None:
    """Answer this path of the backend's probes so, and all others as before."""
    usual = backend.asked

    async def asked(call: Call) -> None:
        await (script if call.path == path else usual)(call)

    backend.asked = asked


async def test_a_backend_that_answers_is_healthy_and_probed(small: Backend) -> None:
    async with watching(config({"small": small})) as (_, runtime, changes):
        assert only(runtime).state == "healthy"
        assert only(runtime).abilities.version == "0.32.0"
        assert changes == []


async def test_a_backend_that_is_not_there() -> None:
    with refusing() as url:
        async with watching(config({"small": url})) as (_, runtime, changes):
            assert only(runtime).state == "unhealthy"
            assert not only(runtime).ready
            assert "ConnectError" in only(runtime).why
            assert [(change.backend, change.state) for change in changes] == [
                (only(runtime).name, "unhealthy")
            ]


async def test_it_falls_ill_and_gets_well(small: Backend) -> None:
    async with watching(config({"small": small}, health=OFTEN)) as (_, runtime, changes):
        usual = small.asked
        instead(small, "/health", answers({"error": "dying"}, 500))
        await eventually(lambda: only(runtime).state == "unhealthy")
        assert only(runtime).why == "/health answered 500"
        small.asked = usual
        await eventually(lambda: only(runtime).state == "healthy")
        assert [change.state for change in changes] == ["unhealthy", "healthy"]


async def test_after_an_illness_it_is_probed_anew(small: Backend) -> None:
    async with watching(config({"small": small}, health=OFTEN)) as (_, runtime, _changes):
        usual = small.asked
        instead(small, "/health", answers({}, 503))
        await eventually(lambda: not only(runtime).healthy)
        small.asked = usual
        instead(small, "/version", answers({"version": "0.33.0"}))
        await eventually(lambda: only(runtime).state == "healthy")
        assert only(runtime).abilities.version == "0.33.0"


async def test_a_busy_server_may_miss_a_check(small: Backend) -> None:
    often = {**OFTEN, "timeout": 0.05, "silences": 100}
    async with watching(config({"small": small}, health=often)) as (_, runtime, changes):
        backend = only(runtime)
        assert backend.healthy
        instead(small, "/health", hangs)
        await eventually(lambda: backend.why.startswith("/health: ReadTimeout"))
        assert backend.healthy
        assert not changes


async def test_no_connection_is_kept_for_the_next_check(small: Backend) -> None:
    looked = 0

    async def counts(call: Call) -> None:
        nonlocal looked
        looked += 1
        await answers({})(call)

    instead(small, "/health", counts)
    async with watching(config({"small": small}, health=OFTEN)):
        before, since = small.connected, looked
        await eventually(lambda: looked >= since + 3)
        assert small.connected >= before + 3


async def test_a_server_of_other_models_is_not_healthy(small: Backend) -> None:
    small.serves = ("llama", "qwen")
    async with watching(config({"small": small})) as (_, runtime, _changes):
        assert only(runtime).why == 'it serves llama, qwen, not "small"; set served_as'


async def test_a_hanging_health_page(small: Backend) -> None:
    instead(small, "/health", hangs)
    async with watching(config({"small": small}, health=OFTEN)) as (_, runtime, _changes):
        assert only(runtime).state == "unhealthy"
        assert "Timeout" in only(runtime).why


LIES = [
    b"",
    b"nonsense",
    b"7",
    b"[]",
    b'{"data": 7, "choices": ["x"]}',
    b'{"data": [7], "paths": [1], "choices": [[]], "tokens": 7}',
]
PROBED = ["/v1/models", "/version", "/openapi.json", "/tokenize", "/v1/completions"]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("path", PROBED)
async def test_nonsense_never_ends_the_watching(small: Backend, path: str, lie: bytes) -> None:
    usual: Any = small.asked
    instead(small, path, answers(lie))
    async with watching(config({"small": small}, health=OFTEN)) as (_, runtime, _changes):
        assert only(runtime).healthy == (path != "/v1/models")
        small.asked = usual
        await eventually(lambda: only(runtime).state == "healthy")


async def test_a_swap_changes_who_is_watched(small: Backend, large: Backend) -> None:
    async with watching(config({"small": small}, health=OFTEN)) as (health, runtime, _):
        other = runtime_of(config({"large": large}, health=OFTEN), runtime)
        health.follow(other)
        await asyncio.wait_for(health.probed(), 10)
        assert only(other).state == "healthy"
        instead(small, "/health", answers({}, 500))
        seen = len(asyncio.all_tasks())
        health.follow(other)
        assert len(asyncio.all_tasks()) == seen
        assert only(runtime).healthy


@pytest.mark.parametrize("fault", [drips, pours])
@pytest.mark.parametrize("path", ["/health", "/v1/models"])
async def test_an_answer_that_never_ends_is_not_waited_for(
    small: Backend, path: str, fault: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.health.PROBE_TIMEOUT", 0.2)
    instead(small, path, fault)
    tree = config({"small": small}, health=OFTEN | {"silences": 1})
    async with watching(tree) as (_, runtime, _):
        assert not only(runtime).healthy
        small.asked = small.answer_probe
        await eventually(lambda: only(runtime).healthy)


@pytest.mark.parametrize(
    "said",
    [
        cards(7, None, "small"),
        cards({"id": 1}, {"id": "large"}, {"id": [1]}),
        cards({"id": "large"}, {"id": 2}),
        answers(b'{"data":' + b"[" * 100_000),
        answers(b"\xff\xfe"),
        answers({"data": {"small": 1}}),
    ],
)
async def test_whatever_a_server_says_it_is_asked_again(small: Backend, said: Script) -> None:
    instead(small, "/v1/models", said)
    async with watching(config({"small": small}, health=OFTEN)) as (_, runtime, _):
        assert not only(runtime).healthy
        small.asked = small.answer_probe
        await eventually(lambda: only(runtime).healthy)


@pytest.mark.parametrize("stated", ["4096", -1, 0, 4096.5, True, [4096], None])
async def test_a_window_is_a_number_of_tokens(small: Backend, stated: object) -> None:
    instead(small, "/v1/models", cards({"id": "small", "max_model_len": stated}))
    async with watching(config({"small": small}, health=OFTEN)) as (_, runtime, _):
        assert only(runtime).abilities.context is None


async def test_servers_cannot_plant_cookies(small: Backend) -> None:
    async def plants(call: Call) -> None:
        asked.append("cookie" in call.headers)
        await call.whole(b"{}", headers=[("set-cookie", f"a{len(asked)}=b")])

    asked: list[bool] = []
    instead(small, "/health", plants)
    async with watching(config({"small": small}, health=OFTEN)):
        await eventually(lambda: len(asked) > 2)
    assert not any(asked)
