"""Backends that fail in every way there is, under every policy, streamed or not."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.cases import Bench, Case, Met, Outcome, Scope
from tests.faults.catalogue import FAULTS
from tests.faults.conftest import Table
from tests.faults.policies import AMPLE, POLICIES, TIGHT, tree
from tests.faults.proxy import Plan, proxied
from tests.faults.report import Row
from tests.running import Running, running
from tests.soak.servers import missing

AT_ONCE = 4
"""Requests at once."""
PATIENCE = 30.0
WAITING = 18
"""Those of them that wait for a limit."""

pytestmark = [missing, pytest.mark.faults, pytest.mark.timeout(180)]


@pytest.mark.parametrize("name", FAULTS)
async def test_every_policy_keeps_its_promise(
    name: str, servers: list[tuple[str, str]], table: Table
) -> None:
    injected = FAULTS[name]
    cases = [
        Case(injected, scope, policy, stream)
        for scope in Scope
        for policy in POLICIES
        for stream in (True, False)
    ]
    plan, limits = Plan(), TIGHT if injected.waits else AMPLE
    async with (
        proxied(plan, *servers) as proxies,
        running(tree([p.told for p in proxies], limits=limits)) as gateway,
    ):
        bench = Bench(gateway, plan, deadline=float(limits["deadline"]))
        await bench.learn()
        turns = asyncio.Semaphore(WAITING if injected.waits else AT_ONCE)

        async def meet(case: Case) -> Met:
            async with turns:
                return await bench.meet(case)

        met = await asyncio.gather(*map(meet, cases))
        if injected.waits:  # tight limits: what a slow machine got wrong is tried again by itself
            met = [await bench.meet(m.case) if m.outcome is Outcome.WRONG else m for m in met]
        await nothing_left(gateway)
    for each in met:
        table(row(each))
    wrong = [f"{m.case}: {m.told}: {m.why}" for m in met if m.outcome is Outcome.WRONG]
    assert not wrong, "\n".join(wrong)
    assert any(m.hits for m in met)


async def nothing_left(gateway: Running) -> None:
    """Wait until no call is in flight; what is left is told."""
    try:
        async with asyncio.timeout(PATIENCE):
            while gateway.in_flight():
                await asyncio.sleep(0.01)
    except TimeoutError:
        pools = gateway.rooms.revisions.runtime.pools.values()
        left = [backend for pool in pools for backend in pool.backends if backend.in_flight]
        raise AssertionError(f"{left}\n{[str(task) for task in asyncio.all_tasks()]}") from None


def row(met: Met) -> Row:
    """A case as the table has it."""
    case = met.case
    return Row(
        "What a backend did",
        case.injected.what,
        case.injected.kind,
        met.outcome,
        met.why or met.told,
        scope=case.scope,
        policy=case.policy,
        stream=case.stream,
        seconds=met.seconds,
    )
