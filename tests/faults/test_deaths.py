"""kill -9: of a backend under every policy, of one of several processes, of what they share."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cases import Bench, Case, Met, Outcome, Scope
from tests.faults.conftest import Table
from tests.faults.injected import Injected, Kind
from tests.faults.loaded import loaded, told, until
from tests.faults.policies import POLICIES, tree
from tests.faults.proxy import Passing, Plan, proxied
from tests.faults.report import Row
from tests.faults.served import LINUX, Served, served
from tests.faults.test_backends import row
from tests.running import config, eventually, http, running
from tests.scripted import Backend
from tests.soak.servers import missing, started
from tests.state.servers import redis

STRUCK = (0.02, 0.1, 0.3)
"""Seconds from asking to the death: before a byte, within, and for some after the answer."""
GROUP = "kill -9"
WORKERS = 2

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


async def passes(call: Passing) -> None:
    """No fault of the proxy's: the server behind it dies."""
    await call.pass_on()


def killed(what: str, kind: Kind) -> Injected:
    return Injected(what, kind, passes, mute=True)


def cases(injected: Injected, scope: Scope) -> list[Case]:
    return [Case(injected, scope, p, stream) for p in POLICIES for stream in (True, False)]


@missing
async def test_a_backend_is_killed(table: Table) -> None:
    plan = Plan()
    async with started("small", "small", "large", "large") as servers:
        behind = [(server.model, server.url) for server in servers]
        async with (
            proxied(plan, *behind) as proxies,
            running(tree([p.told for p in proxies])) as gateway,
        ):
            bench, met = Bench(gateway, plan), list[Met]()
            await bench.learn()

            async def ask(injected: Injected, scope: Scope) -> None:
                met.extend(await asyncio.gather(*map(bench.meet, cases(injected, scope))))

            for wait in STRUCK:
                one = killed("one of two servers dies, with requests in flight", Kind.WITHIN)
                asking = asyncio.create_task(ask(one, Scope.FIRST))
                await asyncio.sleep(wait)
                await servers[0].kill()
                await asking
                await ask(killed("one of two servers is dead", Kind.BEFORE), Scope.FIRST)
                both = killed("the small model's last server dies, too", Kind.WITHIN)
                asking = asyncio.create_task(ask(both, Scope.SMALL))
                await asyncio.sleep(wait)
                await servers[1].kill()
                await asking
                await ask(killed("the small model has no server", Kind.BEFORE), Scope.SMALL)
                await asyncio.gather(servers[0].start(), servers[1].start())
                await ask(killed("both are back", Kind.HARMLESS), Scope.FIRST)
            await eventually(lambda: gateway.in_flight() == 0)
    for each in met:
        table(row(each))
    wrong = [f"{m.case}: {m.told}: {m.why}" for m in met if m.outcome is Outcome.WRONG]
    assert not wrong, "\n".join(wrong)


async def members(running: Served) -> list[dict[str, Any]]:
    """The processes that act as one."""
    async with http(running.admin) as client:
        found: list[dict[str, Any]] = (await client.get("/admin/revisions")).json()["members"]
    return [member for member in found if member["alive"]]


@pytest.mark.skipif(not LINUX, reason="looks into /proc")
async def test_a_process_is_killed(small: Backend, tmp_path: Path, table: Table) -> None:
    tree = config({"small": small}, limits={"deadline": 20})
    options = ("--workers", str(WORKERS))

    async def complete() -> bool:
        return len(await members(gateway)) == WORKERS

    async with served(tree, tmp_path, *options) as gateway:
        await until(complete)
        async with loaded(gateway.url, 8, "small", pause=0.05) as answers:
            small.plays(answers.script)
            await asyncio.sleep(1)
            victim = (await members(gateway))[0]["pid"]
            os.kill(victim, signal.SIGKILL)
            died = time.monotonic()

            async def replaced() -> bool:
                found = {member["pid"] for member in await members(gateway)}
                return len(found) == WORKERS and victim not in found

            await until(replaced)
            await asyncio.sleep(1)
    after, around = answers.counts(died + 0.5), answers.counts(died - 0.2, died + 0.5)
    whole = answers.counts().keys() <= {"complete", "broken", "cut off"} and after.keys() == {
        "complete"
    }
    lost = around.total() - around["complete"]
    good = whole and lost <= 8 and not answers.twice()
    happened = f"{told(answers.counts())}; half a second later: {told(after)}"
    promised = "its connections break, no others; another takes its place; nothing twice"
    table(
        Row(
            GROUP,
            f"one of {WORKERS} processes, under load",
            promised,
            "kept" if good else "WRONG",
            happened,
        )
    )
    assert good, happened


@pytest.mark.skipif(not LINUX, reason="looks into /proc")
async def test_what_they_share_is_killed(small: Backend, tmp_path: Path, table: Table) -> None:
    with redis(tmp_path) as store:
        tree = config({"small": small}, store={"url": store.url}, limits={"deadline": 20})
        change = {"use": "direct", "model": "small"}
        async with (
            served(tree, tmp_path, "--workers", str(WORKERS)) as gateway,
            http(gateway.admin) as operator,
            loaded(gateway.url, 8, "small", pause=0.05) as answers,
        ):
            small.plays(answers.script)
            assert (await operator.put("/admin/policies/one", json=change)).status_code == 200
            store.kill()
            refused = await operator.put("/admin/policies/two", json=change)
            await asyncio.sleep(2)
            store.start()

            async def takes_changes() -> bool:
                answer = await operator.put("/admin/policies/three", json=change)
                return answer.status_code == 200

            await until(takes_changes)
        traces = gateway.said.count("Traceback")
    good = answers.counts().keys() == {"complete"} and refused.status_code == 503 and not traces
    good &= not answers.twice()
    happened = f"{told(answers.counts())}; a change meanwhile: {refused.status_code}; after it: 200"
    promised = "every request is answered; changes are refused until it is back"
    table(Row(GROUP, "Redis, under load", promised, "kept" if good else "WRONG", happened))
    assert good, happened
