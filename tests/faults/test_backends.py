"""Backends that fail in every way there is, under every policy, streamed or not."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.cases import Bench, Case, Met, Outcome, Scope
from tests.faults.catalogue import FAULTS
from tests.faults.conftest import Table
from tests.faults.policies import POLICIES, tree
from tests.faults.proxy import Plan, proxied
from tests.faults.report import Row
from tests.running import eventually, running
from tests.soak.servers import missing

AT_ONCE = 4
"""Requests at once."""
WAITING = 33
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
    plan = Plan()
    async with (
        proxied(plan, *servers) as proxies,
        running(tree([p.told for p in proxies])) as gateway,
    ):
        bench = Bench(gateway, plan)
        await bench.learn()
        turns = asyncio.Semaphore(WAITING if injected.waits else AT_ONCE)

        async def meet(case: Case) -> Met:
            async with turns:
                return await bench.meet(case)

        met = await asyncio.gather(*map(meet, cases))
        await eventually(lambda: gateway.in_flight() == 0)
    for each in met:
        table(row(each))
    wrong = [f"{m.case}: {m.told}: {m.why}" for m in met if m.outcome is Outcome.WRONG]
    assert not wrong, "\n".join(wrong)
    assert any(m.hits for m in met)


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
