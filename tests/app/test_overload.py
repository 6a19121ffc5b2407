"""Overload over real sockets: who waits, who is told to come back, and who is let in again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from app.keys import new_key
from router.config import Form
from router.line import Line
from tests.conftest import Started
from tests.running import CHAT, Config, Running, config, eventually, request, wire
from tests.scripted import Backend, Call, Script, answers, vllm


class Gate:
    """Backends that answer as vLLM does, when the test lets them: so many calls at a time."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(0)

    def opens(self, number: int = 1) -> None:
        """Let so many more calls through."""
        for _ in range(number):
            self._free.release()

    @property
    def script(self) -> Script:
        """What a backend plays."""

        async def play(call: Call) -> None:
            await self._free.acquire()
            await vllm(call)

        return play


def limited(small: Backend, large: Backend | None = None, **queue: Any) -> Config:
    """A small model with one place, and a large one without a limit."""
    tree = config({"small": small, **({"large": large} if large else {})})
    tree["models"]["small"]["queue"] = {"in_flight": 1, **queue}
    tree["default"] = "small"
    return tree


def line(running: Running) -> Line:
    """The small model's."""
    return running.rooms.revisions.runtime.pools["small"].line


async def waits(running: Running, number: int) -> None:
    """Wait until so many requests are in line."""
    await eventually(lambda: line(running).waiting() == number)


async def asked(running: Running, number: int, **body: Any) -> list[asyncio.Task[Any]]:
    """So many requests, of which all are in line, refused or at the backend."""
    tasks = [asyncio.create_task(running.post(**body)) for _ in range(number)]
    await eventually(
        lambda: (
            line(running).taken + line(running).waiting() + sum(t.done() for t in tasks) >= number
        )
    )
    return tasks


async def test_requests_take_turns_and_the_rest_is_told_to_come_back(
    gateway: Started, small: Backend
) -> None:
    gate = Gate()
    small.plays(gate.script)
    running = await gateway(limited(small, waiting=1))
    tasks = await asked(running, 3)
    await eventually(lambda: any(task.done() for task in tasks))
    (refused,) = [task.result() for task in tasks if task.done()]
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"
    await small.call()
    assert (len(small.calls), running.in_flight()) == (1, 1)
    page = await running.metrics()
    assert page["tandem_queued"]["small", "high"] == 1
    gate.opens(2)
    told = [(await task).status_code for task in tasks]
    assert sorted(told) == [200, 200, 503]
    await running.ended(3)
    page = await running.metrics()
    assert page["tandem_shed_total"]["small", "high", "full"] == 1
    assert page["tandem_queue_seconds_count"]["small", "high"] == 1
    assert page["tandem_queued"]["small", "high"] == 0
    assert "tandem_backend_changes_total" not in page or small.name not in str(page)
    assert line(running).taken == 0


async def test_a_stream_waits_for_its_place_and_holds_it_to_its_end(
    gateway: Started, small: Backend
) -> None:
    gate = Gate()
    small.plays(gate.script)
    running = await gateway(limited(small))
    first, second = await asked(running, 2, stream=True)
    assert line(running).waiting() == 1
    gate.opens(2)
    for task in (first, second):
        assert (await task).text.endswith("data: [DONE]\n\n")
    assert [ended.status for ended in (await running.ended(1), await running.ended(2))] == [200] * 2
    assert small.finished == 2


async def test_who_leaves_while_waiting_is_never_sent_to_a_backend(
    gateway: Started, small: Backend
) -> None:
    gate = Gate()
    small.plays(gate.script)
    running = await gateway(limited(small))
    (first,) = await asked(running, 1)
    async with wire(running.url) as leaving:
        await leaving.send(request({"messages": []}))
        await waits(running, 1)
        leaving.leave()
        await waits(running, 0)
    gate.opens()
    assert (await first).status_code == 200
    assert [(await running.ended(n)).status for n in (1, 2)] == [499, 200]
    assert len(small.calls) == 1


async def test_a_client_may_go_behind_others_but_not_before_them(
    gateway: Started, small: Backend
) -> None:
    gate = Gate()
    small.plays(gate.script)
    running = await gateway(limited(small, floor=0))
    (first,) = await asked(running, 1)
    order: list[str] = []

    async def post(name: str, headers: dict[str, str], **body: Any) -> None:
        whole = {"messages": [], **body}
        answer = await running.client.post(CHAT, json=whole, headers=headers)
        assert answer.status_code == 200
        order.append(name)

    tasks = []
    for number, (name, headers, body) in enumerate(
        (
            ("flex", {}, {"service_tier": "flex"}),
            ("low", {"x-tandem-priority": "low"}, {}),
            ("high", {"x-tandem-priority": "high"}, {}),
            ("default", {}, {"service_tier": "priority"}),
        )
    ):
        tasks.append(asyncio.create_task(post(name, headers, **body)))
        await waits(running, number + 1)
    gate.opens()
    await first
    for number in range(4):
        gate.opens()
        await running.ended(number + 2)
    await asyncio.gather(*tasks)
    assert order == ["high", "default", "flex", "low"]
    assert json.loads(small.calls[3].body)["service_tier"] == "flex", "it is passed on"
    assert "x-tandem-priority" not in small.calls[4].headers


async def test_an_unknown_priority_is_a_mistake(gateway: Started, small: Backend) -> None:
    running = await gateway(limited(small))
    answer = await running.client.post(
        CHAT, json={"messages": []}, headers={"x-tandem-priority": "highest"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_priority")


async def test_a_key_of_low_priority_waits_behind_others(
    gateway: Started, small: Backend, tmp_path: Path
) -> None:
    secrets, entries = {}, []
    for name, priority in (("batch", "low"), ("people", "high")):
        secrets[name], entry = new_key(name)
        entries.append({"name": name, "sha256": entry.sha256, "priority": priority})
    (tmp_path / "keys.yaml").write_text(json.dumps({"keys": entries}))
    gate = Gate()
    small.plays(gate.script)
    tree = limited(small, floor=0)
    running = await gateway({**tree, "keys": {"file": str(tmp_path / "keys.yaml")}})

    async def post(name: str) -> None:
        key = {"authorization": f"Bearer {secrets[name]}", "x-tandem-priority": "high"}
        await running.client.post(CHAT, json={"messages": []}, headers=key)

    tasks = [asyncio.create_task(post("people"))]
    await eventually(lambda: line(running).taken == 1)
    for number, name in enumerate(("batch", "people"), start=1):
        tasks.append(asyncio.create_task(post(name)))
        await waits(running, number)
    gate.opens(3)
    await asyncio.gather(*tasks)
    ended = [await running.ended(n) for n in (1, 2, 3)]
    assert [each.key for each in ended] == ["people", "people", "batch"]
    assert [[wait.low for wait in each.queued] for each in ended] == [[], [False], [True]]


async def test_a_fallback_takes_what_is_shed(
    gateway: Started, small: Backend, large: Backend
) -> None:
    gate = Gate()
    small.plays(gate.script)
    tree = limited(small, large, waiting=0)
    tree["policies"] = {"auto": {"use": "fallback", "targets": ["small", "large"]}}
    running = await gateway(tree)
    (first,) = await asked(running, 1, model="auto")
    other = await running.post(model="auto")
    assert other.status_code == 200
    assert other.headers["x-tandem-models"].startswith("large=")
    assert other.headers["x-tandem-reason"].startswith("fell_back; from small: too many requests")
    gate.opens()
    await first


async def test_nobody_waits_on_when_the_last_server_is_lost(
    gateway: Started, small: Backend
) -> None:
    gate = Gate()
    small.plays(gate.script)
    running = await gateway({**limited(small), "health": {"every": 0.02}})
    (hangs,) = await asked(running, 1)
    waiting = await asked(running, 2)
    await waits(running, 2)
    usual, small.asked = small.asked, answers({"error": {"message": "dead"}}, 500)
    for task in waiting:
        answer = await task
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_backend")
    assert not hangs.done()
    small.asked = usual
    gate.opens()
    assert (await hangs).status_code == 200
    assert line(running).taken == 0


async def test_a_swap_lets_in_those_who_wait(gateway: Started, small: Backend) -> None:
    gate = Gate()
    small.plays(gate.script)
    tree = limited(small)
    running = await gateway(tree)
    tasks = await asked(running, 3)
    assert line(running).waiting() == 2
    tree["models"]["small"]["queue"]["in_flight"] = 4
    revisions = running.rooms.revisions
    await revisions.replace(json.dumps(tree), Form.JSON, None)
    tasks += [asyncio.create_task(running.post())]
    await eventually(lambda: small.open == 4)
    gate.opens(4)
    assert [(await task).status_code for task in tasks] == [200] * 4
    assert line(running).taken == 0


async def test_a_cheaper_model_answers_what_would_wait_too_long(
    gateway: Started, small: Backend, large: Backend
) -> None:
    gate = Gate()
    small.plays(gate.script)
    tree = limited(small, large, waiting=1)
    overload = {"use": "overload", "target": "small", "cheaper": "large", "wait": 0}
    tree["policies"] = {"auto": overload}
    running = await gateway(tree)
    (known,) = await asked(running, 1)
    gate.opens()
    await known  # from now on it is known how long a place is held
    (first,) = await asked(running, 1, model="auto")
    runtime = running.rooms.revisions.runtime
    await eventually(lambda: runtime.snapshot().models["small"].queue > 0)
    other = await running.post(model="auto")
    assert other.headers["x-tandem-reason"].startswith("overloaded; a place with small would take")
    assert other.headers["x-tandem-models"].startswith("large=")
    gate.opens()
    assert (await first).headers["x-tandem-models"].startswith("small=")
    await running.ended(3)
    page = await running.metrics()
    assert page["tandem_reasons_total"]["auto", "overloaded"] == 1
