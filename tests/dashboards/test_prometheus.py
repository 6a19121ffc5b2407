"""A real Prometheus scrapes a gateway under load: what boards and rules ask for, it can answer.

The gateway has all that is watched: policies that hand over, a shadow, a log of decisions, servers
that sleep, a backend that is dead, clients that leave. Prometheus is Debian's, on loopback, with
the configuration and rules that ship, only quicker; it is skipped where it is not installed.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from app.admin import admin_app
from app.serve import listening
from tests.dashboards.asked import ROOT, boards, drawn, rules
from tests.dashboards.promql import selectors
from tests.running import (
    NO_TLS,
    OPERATORS,
    Config,
    Running,
    config,
    eventually,
    http,
    request,
    running,
    wire,
)
from tests.scripted import (
    DONE,
    Backend,
    Call,
    Script,
    answers,
    chunk,
    scripted,
    streams,
    usage_event,
    vllm,
)
from tests.sleepers import Sleeper

PROMETHEUS = shutil.which("prometheus")
SCRAPES = 5
"""So many scrapes with load between them: a rate needs two."""
EVERY = 0.5
"""Seconds between two scrapes, and two looks at the rules."""
LATEST = 30.0
"""Seconds after which something that should have come has not."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        PROMETHEUS is None, reason="no prometheus: install Debian's package of that name"
    ),
]

EMPTY = {
    "policies: Expected score, shadow minus served A": "needs a policy that expects scores: a "
    "trained router, which scripted backends have no use for",
    "policies: Comparisons that were not made A": "all are made here",
    'tandem_shadow_failures_total{why="dropped"}': "the queue is never full here",
    'tandem_shadow_failures_total{why="error"}': "no policy raises an error here",
    'tandem_sleep_changes_total{change=~"wake_failed|sleep_failed"}': "every server wakes",
    'tandem_decisions_total{outcome=~"dropped|failed"}': "every decision is logged",
    'job_fault:tandem_errors:ratio_rate5m{fault="gateway"}': "the gateway makes no mistake here",
}
"""What returns nothing, and why that is right."""


# ------------------------------------------------------------------------------- what is watched


async def writes(call: Call) -> None:
    """A small model that is unsure at its first token, and goes on where the large one stopped."""
    if not call.json.get("stream"):
        await plain(call)
    elif call.json["messages"][-1]["role"] == "assistant":
        await streams(token("7", 0.0), chunk({}, "stop"), usage_event(), DONE)(call)
    else:
        await begun(call, token("S", *[math.log(0.25)] * 4))
        await call.gone.wait()


async def takes_over(call: Call) -> None:
    """A large model that writes a step, and would write more."""
    if call.json.get("stream"):
        await begun(call, token("So ", 0.0), token("3.\n\n", 0.0), token("More", 0.0))
        await call.gone.wait()
    else:
        await plain(call)


def token(text: str, *top: float) -> bytes:
    best = [{"token": f"{n}", "logprob": value, "bytes": []} for n, value in enumerate(top)]
    entry = {"token": text, "logprob": top[0], "bytes": [], "top_logprobs": best}
    return chunk({"content": text}, None, logprobs={"content": [entry]})


async def begun(call: Call, *events: bytes) -> None:
    await call.head()
    for event in events:
        await call.chunk(event)


async def plain(call: Call) -> None:
    """What the last message asks for: an answer, or trouble."""
    asked = call.json["messages"][-1]["content"]
    if asked in TROUBLE:
        await TROUBLE[asked](call)
    else:
        await vllm(call)


async def cut(call: Call) -> None:
    await begun(call, chunk({"content": "Hel"}))
    call.reset()


async def stalls(call: Call) -> None:
    await begun(call, chunk({"content": "Hel"}))
    await call.gone.wait()


TROUBLE: dict[str, Script] = {
    "wrong": answers({"error": {"message": "too long"}}, 400),
    "full": answers({"error": {"message": "full"}}, 503),
    "dead": answers({"error": {"message": "dead"}}, 500),
    "untold": streams(chunk({"content": "Hello"}), chunk({}, "stop"), DONE),
    "cut": cut,
    "endless": stalls,
}


def flap(backend: Backend) -> None:
    """Its health check fails every other time."""
    usual, turns = backend.asked, cycle((backend.asked, TROUBLE["dead"]))

    async def asked(call: Call) -> None:
        await (next(turns) if call.path == "/health" else usual)(call)

    backend.asked = asked


def tree(of: dict[str, Backend], folder: Path) -> Config:
    """Two models that write together, two that sleep in turns, and two that fail."""
    flap(of["ill"])
    Sleeper(of["day"])
    Sleeper(of["night"], sleeping=True)
    made = config(
        of,
        policies={
            "auto": {"use": "steps", "small": "small", "large": "large"},
            "plain": {"use": "direct", "model": "small"},
            "even": {"use": "split", "weights": {"small": 1, "large": 1}, "sticky": False},
        },
        shadow="even",
        decisions={"file": str(folder / "decisions.jsonl")},
        baseline="large",
        health={"every": 0.1},
        breaker={"failures": 2, "wait": 60, "longest": 60},
        hosts={"127.0.0.1": {"memory_gb": 10}},
    )
    made["models"]["large"]["price"] = {"input": 10.0, "output": 20.0}
    for name, section in made["models"].items():
        section["memory_gb"] = 1
        section |= {"idealised": {"call": 0.01, "decode": 0.001}, "usd_per_hour": 2.0}
        if name in ("day", "night"):
            section |= {"memory_gb": 5, "sleep": {"residence": 0, "wake": 2}}
    made["models"]["narrow"]["queue"] = {"in_flight": 1, "waiting": 1}
    return made


STREAMING = ("auto", "day", "night", "dead")
"""What is asked for streams. `small` and `large` stream as parts of `auto` only."""


async def load(gateway: Running) -> None:
    """One of everything that is counted."""
    for name in ("plain", "even", "small", "large", "nobody", *STREAMING):
        answer = await gateway.post(model=name)
    for name in STREAMING:
        await gateway.post(model=name, stream=True)
    for what in ("wrong", "full", "untold", "cut"):
        said = [{"role": "user", "content": what}]
        name = "plain" if what in ("wrong", "full") else "day"
        await gateway.post(model=name, messages=said, stream=name == "day")
    said = [{"role": "user", "content": "endless"}]
    async with wire(gateway.url) as client:
        await client.send(request({"model": "day", "messages": said, "stream": True}))
        await client.until(b"Hel")
        client.reset()
    await crowd(gateway)
    served: Any = admin_app(gateway.rooms.revisions, OPERATORS, gateway.rooms.decisions)
    async with listening(served) as url, http(url, authorization="Bearer token") as operator:
        score = {"id": answer.headers["x-request-id"], "score": 0.5}
        assert (await operator.post("/admin/feedback", json=score)).status_code == 202
    await eventually(lambda: gateway.in_flight() == 0)


async def crowd(gateway: Running) -> None:
    """Three requests for one place: one has it, one waits, one is shed."""
    said = [{"role": "user", "content": "endless"}]
    line = gateway.rooms.revisions.runtime.pools["narrow"].line
    async with wire(gateway.url) as client:
        await client.send(request({"model": "narrow", "messages": said, "stream": True}))
        await client.until(b"Hel")
        waits = asyncio.create_task(gateway.post(model="narrow"))
        await eventually(lambda: line.waiting() == 1)
        assert (await gateway.post(model="narrow")).status_code == 503
        client.reset()
        assert (await waits).status_code == 200


# ---------------------------------------------------------------------------------- what watches


@dataclass(frozen=True)
class Watching:
    """Prometheus' own API."""

    api: httpx.AsyncClient

    async def get(self, path: str, **parameters: str) -> Any:
        answer = await self.api.get(f"/api/v1/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def values(self, expr: str) -> list[float]:
        """What a query returns now, but for what is not a number."""
        found = (await self.get("query", query=expr))["result"]
        values = (float(sample["value"][1]) for sample in found)
        return [value for value in values if not math.isnan(value)]

    async def until(self, expr: str) -> None:
        """As soon as a query returns something."""
        async with asyncio.timeout(LATEST):
            while not await self.values(expr):
                await asyncio.sleep(EVERY / 5)


def quick(folder: Path, target: str) -> Path:
    """What ships, with another target, and in a hurry."""
    ships = ROOT / "deploy" / "prometheus"
    shutil.copytree(ships / "rules", folder / "rules")
    said = yaml.safe_load((ships / "prometheus.yml").read_text("utf-8"))
    names = ("scrape_interval", "scrape_timeout", "evaluation_interval")
    said["global"] = dict.fromkeys(names, f"{EVERY * 1000:.0f}ms")
    (job,) = said["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(said), encoding="utf-8")
    return path


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[Watching]:
    """It listens on loopback alone, and ends with the test."""
    assert PROMETHEUS
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            PROMETHEUS,
            f"--config.file={quick(folder, target)}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
            stdout=log,
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", verify=NO_TLS) as api:
            await ready(api, process, folder / "prometheus.log")
            yield Watching(api)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def ready(api: httpx.AsyncClient, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(LATEST):
        while True:
            assert process.returncode is None, f"it ended: see {log}"
            try:
                if (await api.get("/-/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watching(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watching]:
    """Prometheus, after some scrapes of a gateway with load between them."""
    folder = tmp_path_factory.mktemp("prometheus")
    async with AsyncExitStack() as stack:
        names = ("small", "large", "dead", "ill", "day", "night", "narrow")
        of = {name: await stack.enter_async_context(scripted(name)) for name in names}
        for name, backend in of.items():
            backend.plays({"small": writes, "large": takes_over}.get(name, plain))
        of["dead"].plays(TROUBLE["dead"])
        gateway = await stack.enter_async_context(running(tree(of, folder)))
        target = gateway.url.removeprefix("http://")
        it = await stack.enter_async_context(prometheus(folder, target))
        for number in range(1, SCRAPES + 1):
            await load(gateway)
            await it.until(f"count_over_time(up[5m]) >= {number}")
        yield it


def filled(expr: str) -> str:
    """A board's query as Grafana sends it, with everything chosen."""
    expr = expr.replace("$__rate_interval", "20s").replace("$__range", "1m")
    return (
        expr.replace("$large", "large")
        .replace("$job", ".*")
        .replace("$instance", ".*")
        .replace("$policy", ".*")
        .replace("$model", ".*")
    )


# ------------------------------------------------------------------------------------ the answers


async def test_every_query_of_every_board_returns_data(watching: Watching) -> None:
    empty = {each.where for each in drawn() if not await watching.values(filled(each.expr))}
    assert empty == EMPTY.keys() & {each.where for each in drawn()}


async def test_every_variable_has_values(watching: Watching) -> None:
    for board in boards().values():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                inner = variable["query"]["query"].removeprefix("label_values(")
                selector, _, label = filled(inner).removesuffix(")").rpartition(", ")
                found = await watching.get(f"label/{label}/values", **{"match[]": selector})
                assert found, variable["name"]


async def test_every_rule_is_well_and_what_it_asks_for_is_there(watching: Watching) -> None:
    groups = (await watching.get("rules"))["groups"]
    found = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert found.keys() == {rule.where for rule in rules()}
    assert {name: rule["lastError"] for name, rule in found.items() if rule["health"] != "ok"} == {}
    wanted = {rule.where for rule in rules() if rule.record}
    wanted |= {str(selector) for rule in rules() for selector in selectors(rule.expr)}
    empty = {each for each in wanted if not await watching.values(each)}
    assert empty == {each for each in EMPTY if ": " not in each}


async def test_a_backend_that_fails_raises_its_alerts(watching: Watching) -> None:
    """Those that wait some minutes are pending; the others fire."""
    await watching.until('ALERTS{alertname="TandemBreakerOpen", alertstate="firing"}')
    await watching.until('ALERTS{alertname="TandemNoBackend", alertstate="pending", model="dead"}')
    alerts = (await watching.get("alerts"))["alerts"]
    (fires,) = [each for each in alerts if each["state"] == "firing"]
    assert (fires["labels"]["alertname"], fires["labels"]["model"]) == ("TandemBreakerOpen", "dead")
    assert fires["annotations"]["summary"].startswith("The breaker of 127.0.0.1:")
