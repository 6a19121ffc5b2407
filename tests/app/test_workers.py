"""`tandem serve --workers N`: real processes that act as one, killed, restarted and ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.running import CHAT, MESSAGES, NO_TLS, config
from tests.scripted import Backend

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds for processes to come up or go down on a busy machine."""
TANDEM = [sys.executable, "-c", "import sys; from app.cli import main; sys.exit(main())"]
NUMBER = 3


@dataclass(slots=True)
class Crew:
    """A gateway of several processes: its addresses, and who is there."""

    process: asyncio.subprocess.Process
    front: str
    admin: httpx.AsyncClient
    output: Path

    async def told(self, words: str) -> None:
        """Wait until it says this."""
        await said(self.output, words)

    async def members(self) -> list[dict[str, Any]]:
        """Those that are alive."""
        told = (await self.admin.get("/admin/revisions")).json()
        return [member for member in told["members"] if member["alive"]]

    async def until(self, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """The members, as soon as this is so of them."""
        async with asyncio.timeout(PATIENCE):
            while not holds(members := await self.members()):
                await asyncio.sleep(0.02)
        return members

    async def ask(self) -> int:
        """The status of one call, on a connection of its own."""
        async with httpx.AsyncClient(
            base_url=self.front, verify=NO_TLS, timeout=PATIENCE
        ) as client:
            return (await client.post(CHAT, json={"messages": MESSAGES})).status_code


async def said(output: Path, words: str) -> str:
    """What is written there, as soon as these words are."""
    async with asyncio.timeout(PATIENCE):
        while words not in (text := await asyncio.to_thread(output.read_text)):
            await asyncio.sleep(0.02)
    return text


@asynccontextmanager
async def crew(folder: Path, backend: Backend, **sections: Any) -> AsyncIterator[Crew]:
    """A gateway of `NUMBER` processes, ended with SIGTERM."""
    file = folder / "gateway.json"
    ports = {"listen": {"port": 0}, "admin": {"port": 0}}
    file.write_text(json.dumps(config({"small": backend}, **ports, **sections)))
    output = folder / "output"
    with output.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *TANDEM, "serve", "--config", str(file), "--workers", str(NUMBER),
            stdout=out, stderr=out, cwd=ROOT,
        )  # fmt: skip
    try:
        words = (await said(output, f"workers: {NUMBER}")).split()
        front = words[words.index("listening") + 2]
        admin = next(word for word in words if word.endswith("/admin/docs"))
        url = admin.removesuffix("/admin/docs")
        # A connection per call: one that is kept is with one process, which may be killed.
        once = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=url, verify=NO_TLS, timeout=PATIENCE, limits=once
        ) as client:
            running = Crew(process, front, client, output)
            await running.until(lambda members: len(members) == NUMBER)
            yield running
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def serving(number: int) -> Callable[[list[dict[str, Any]]], bool]:
    """Whether all serve this revision."""
    return lambda members: {each["revision"] for each in members} == {number}


async def test_a_swap_reaches_every_process_within_a_second(small: Backend, tmp_path: Path) -> None:
    async with crew(tmp_path, small) as running:
        for number in range(2, 5):
            changed = await running.admin.put(
                "/admin/policies/canary", json={"use": "split", "weights": {"small": number}}
            )
            assert changed.json()["number"] == number
            async with asyncio.timeout(1):
                await running.until(serving(number))


async def test_one_that_is_killed_is_replaced_and_serves_what_the_others_serve(
    small: Backend, tmp_path: Path
) -> None:
    async with crew(tmp_path, small) as running:
        await running.admin.put("/admin/policies/new", json={"use": "direct", "model": "small"})
        before = await running.until(serving(2))
        victim = before[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        after = await running.until(
            lambda m: len(m) == NUMBER and victim not in {each["pid"] for each in m}
        )
        assert {each["revision"] for each in after} == {2}
        assert await running.ask() == 200
        await running.told("ended (status -9)")


async def test_restarting_in_turn_loses_no_request(small: Backend, tmp_path: Path) -> None:
    async with crew(tmp_path, small) as running:
        before = {member["pid"] for member in await running.members()}
        statuses: list[int] = []
        over = asyncio.Event()

        async def keep_asking() -> None:
            while not over.is_set():
                statuses.append(await running.ask())

        asking = [asyncio.create_task(keep_asking()) for _ in range(4)]
        running.process.send_signal(signal.SIGHUP)
        await running.told(f"{NUMBER} workers were restarted")
        over.set()
        await asyncio.gather(*asking)
        after = await running.until(lambda m: len(m) == NUMBER)
        assert before.isdisjoint(member["pid"] for member in after)
        assert set(statuses) == {200}
        assert len(statuses) > 20


async def test_the_end_is_announced_before_it_comes(small: Backend, tmp_path: Path) -> None:
    """So that what stands in front can notice, and nobody is turned away meanwhile."""
    async with crew(tmp_path, small, drain={"announce": 2.0}) as running:
        once = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=running.front, verify=NO_TLS, timeout=PATIENCE, limits=once
        ) as client:
            assert (await client.get("/readyz")).status_code == 200
            running.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(1.5):
                while (await client.get("/readyz")).json()["status"] != "draining":
                    await asyncio.sleep(0.01)
            answer = await client.post(CHAT, json={"messages": MESSAGES})
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        async with asyncio.timeout(PATIENCE):
            assert await running.process.wait() == 0


async def test_one_page_of_metrics_and_decisions_for_all(small: Backend, tmp_path: Path) -> None:
    async with crew(tmp_path, small) as running:
        for _ in range(20):
            assert await running.ask() == 200
        async with httpx.AsyncClient(base_url=running.front, verify=NO_TLS) as client:

            async def told() -> tuple[float, float]:
                """How many processes and how many requests one of them knows of."""
                page = (await client.get("/metrics")).text
                return _sum(page, "tandem_members "), _sum(page, "tandem_requests_total{")

            # What another has counted, and that it is there at all, is known a moment later.
            async with asyncio.timeout(PATIENCE):
                while (await asyncio.gather(*(told() for _ in range(6)))) != [(NUMBER, 20)] * 6:
                    await asyncio.sleep(0.05)
            assert [await told() for _ in range(5)] == [(NUMBER, 20)] * 5


def _sum(page: str, start: str) -> float:
    """Of the values in the lines of `page` that begin with `start`."""
    lines = (line for line in page.splitlines() if line.startswith(start))
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_they_end_with_a_parent_that_is_killed(small: Backend, tmp_path: Path) -> None:
    async with crew(tmp_path, small) as running:
        pids = {member["pid"] for member in await running.members()}
        running.process.kill()
        await running.process.wait()
        async with asyncio.timeout(PATIENCE):
            while any(alive(pid) for pid in pids):
                await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_what_cannot_be_served_is_said_once(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "models: {small: {backends: ['http://127.0.0.1:9'], sleep: true, memory_gb: 1}}\n"
        "hosts: {127.0.0.1: {memory_gb: 1}}\n"
        "listen: {port: 0}\nadmin: {port: 0}\nhealth: {timeout: 0.1}\n"
    )
    process = await asyncio.create_subprocess_exec(
        *TANDEM, "serve", "--config", str(file), "--workers", "2",
        stderr=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().count("servers sleep and wake on the word of one process") == 1
