"""Swaps under load, through the admin API: nothing fails, nothing mixes, nothing half happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app.admin import admin_app
from app.serve import listening
from tests.conftest import Started
from tests.running import OPERATORS, Config, Running, config, eventually, http
from tests.scripted import DONE, Backend, chunk, chunks, pauses, usage_event

SWAPS = 20
CLIENTS = 8


@asynccontextmanager
async def admin(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway's admin API, on a listener of its own."""
    app: Any = admin_app(running.rooms.revisions, OPERATORS)
    told = {"authorization": "Bearer token", "if-match": "*"}
    async with listening(app) as url, http(url, **told) as client:
        yield client


def choosing(tree: Config, name: str) -> Config:
    """The same configuration with `auto` meaning this model."""
    return {**tree, "policies": {"auto": {"use": "direct", "model": name}}, "default": "auto"}


async def test_swaps_under_load_fail_nothing_and_mix_nothing(
    gateway: Started, small: Backend, large: Backend
) -> None:
    tree = config({"small": small, "large": large})
    running = await gateway(choosing(tree, "small"))
    swapping = True
    wrong: list[str] = []
    done = 0

    async def ask(stream: bool) -> None:
        nonlocal done
        while swapping:
            answer = await running.post(model="auto", stream=stream)
            # an odd revision means the small model, an even one the large
            meant = "small" if int(answer.headers["x-tandem-revision"]) % 2 else "large"
            other = "large" if meant == "small" else "small"
            told = answer.headers["x-tandem-models"].split("=")[0]
            if answer.status_code != 200 or told != meant or other.encode() in answer.content:
                wrong.append(answer.text)
            done += 1

    async with admin(running) as operator:
        asking = [asyncio.create_task(ask(bool(n % 2))) for n in range(CLIENTS)]
        for number in range(SWAPS):
            seen = done
            name = "small" if number % 2 else "large"
            answer = await operator.put("/admin/config", json=choosing(tree, name))
            assert answer.status_code == 200, answer.text
            await eventually(lambda seen=seen: done >= seen + CLIENTS)  # type: ignore[misc]
        swapping = False
        await asyncio.gather(*asking)
    assert wrong == []
    assert running.in_flight() == 0
    assert running.rooms.revisions.active.number == SWAPS + 1


async def test_a_request_in_flight_ends_under_the_revision_it_began_with(
    gateway: Started, small: Backend, large: Backend
) -> None:
    tree = config({"small": small})
    running = await gateway(choosing(tree, "small"))
    swapped = asyncio.Event()
    first, rest = chunk({"content": "Hel"}), chunk({"content": "lo"}, "stop")
    small.plays(pauses(swapped, first, chunks(rest, usage_event(), DONE)))
    old = asyncio.create_task(running.post(model="auto", stream=True))
    await small.call()
    only_large = config({"large": large}, limits={"deadline": 5})
    async with admin(running) as operator:
        answer = await operator.put("/admin/config", json=choosing(only_large, "large"))
        assert answer.status_code == 200, answer.text
        new = await running.post(model="auto", stream=True)
        assert new.headers["x-tandem-revision"] == "2"
        assert b'"model": "large"' in new.content
        assert (await running.post(model="small")).status_code == 404
        swapped.set()
        ended = await old
    assert ended.headers["x-tandem-revision"] == "1"
    assert ended.content.startswith(first + rest)
    assert ended.content.endswith(DONE)
    assert small.finished == 1


async def test_a_backend_that_stays_keeps_its_state(gateway: Started, small: Backend) -> None:
    tree = config({"small": small})
    running = await gateway(choosing(tree, "small"))
    go_on = asyncio.Event()
    small.plays(pauses(go_on, chunk({"content": "a"}), chunks(DONE)))
    asking = asyncio.create_task(running.post(model="small", stream=True))
    await small.call()
    before = running.backend("small")
    async with admin(running) as operator:
        other = {**tree, "limits": {"idle": 7}}
        assert (await operator.put("/admin/config", json=other)).status_code == 200
        assert running.backend("small") is before
        assert running.in_flight() == 1
        go_on.set()
        await asking
    await running.ended()
    assert running.in_flight() == 0


async def test_a_broken_document_changes_nothing(
    gateway: Started, small: Backend, large: Backend
) -> None:
    tree = config({"small": small})
    running = await gateway(choosing(tree, "small"))
    before = running.rooms.revisions.runtime
    models = {**tree["models"], "large": {"backends": ["ftp://nowhere"]}}
    broken = [
        ({**tree, "unknown": 1}, "unknown"),
        ({**tree, "models": models}, "models.large.backends"),
        (choosing(tree, "large"), "policies.auto.model"),
        ({**tree, "listen": {"port": 9}}, "listen"),
        ({**tree, "default": "nobody"}, "default"),
    ]
    async with admin(running) as operator:
        for document, path in broken:
            for answer in (
                await operator.put("/admin/config", json=document),
                await operator.put("/admin/config", content=json.dumps(document).encode()[:-1],
                                   headers={"content-type": "application/json"}),
            ):  # fmt: skip
                assert answer.status_code == 422, answer.text
                assert running.rooms.revisions.runtime is before
            whole = await operator.put("/admin/config", json=document)
            paths = [problem["path"] for problem in whole.json()["error"]["problems"]]
            assert any(found.startswith(path) for found in paths), paths
    assert (await running.post(model="auto")).headers["x-tandem-revision"] == "1"


async def test_one_policy_is_swapped_and_rolled_back(
    gateway: Started, small: Backend, large: Backend
) -> None:
    running = await gateway(choosing(config({"small": small, "large": large}), "small"))
    async with admin(running) as operator:
        large_now = {"use": "direct", "model": "large"}
        assert (await operator.put("/admin/policies/auto", json=large_now)).status_code == 200
        assert (await running.post(model="auto")).headers["x-tandem-models"] == "large=2"
        assert (await operator.post("/admin/revisions/1/activate")).status_code == 200
        back = await running.post(model="auto")
    assert (back.headers["x-tandem-models"], back.headers["x-tandem-revision"]) == ("small=2", "3")
    assert (await running.metrics())["tandem_revision"] == {(): 3}


async def test_a_new_backend_is_watched_and_a_removed_one_is_not(
    gateway: Started, small: Backend, large: Backend
) -> None:
    tree = config({"small": small}, health={"every": 0.02})
    running = await gateway(tree)
    async with admin(running) as operator:
        both = config({"small": small, "large": large}, health={"every": 0.02})
        assert (await operator.put("/admin/config", json=both)).status_code == 200
        await asyncio.wait_for(running.rooms.health.probed(), 10)
        assert running.backend("large").state == "healthy"
        assert (await running.post(model="large")).status_code == 200
        assert (await operator.put("/admin/config", json=tree)).status_code == 200
    assert [task for task in asyncio.all_tasks() if task.get_name() == f"health {large.name}"] == []


async def test_an_api_taken_away_by_a_swap_is_gone(gateway: Started, small: Backend) -> None:
    """What the config says of a model's APIs holds from the swap on, for old backends too."""
    tree = config({"small": small})
    running = await gateway(tree)
    assert (await running.post()).status_code == 200
    only = {**tree, "models": {"small": {**tree["models"]["small"], "surfaces": ["embeddings"]}}}
    async with admin(running) as operator:
        assert (await operator.put("/admin/config", json=only)).status_code == 200
        assert (await running.post()).status_code == 404
