"""Computing: long work takes its turn, short work does not wait for it, and nothing is lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from router.computing import LONG, Computing
from tests.running import eventually


class Held:
    """Work that lasts until it is let go; `begun` are the names of what has begun, in order."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go = threading.Event()

    def __call__(self, name: str) -> str:
        self.begun.append(name)
        assert self.go.wait(10)
        return name


async def test_short_work_does_not_wait_for_long_work() -> None:
    held, computing = Held(), Computing(1)
    long = [asyncio.create_task(computing.run(held, ("long",), 0.0, LONG)) for _ in range(40)]
    await eventually(lambda: bool(held.begun))
    assert await computing.run(str.upper, ("short",), 0.0, LONG - 1) == "SHORT"
    assert held.begun == ["long"], "one at a time"
    held.go.set()
    assert await asyncio.gather(*long) == ["long"] * 40


async def test_of_long_work_that_of_the_oldest_request_comes_first() -> None:
    held, computing = Held(), Computing(1)
    arrived = {"first": 0.0, "late": 3.0, "old": 1.0, "middle": 2.0}
    tasks = []
    for name, when in arrived.items():
        tasks.append(asyncio.create_task(computing.run(held, (name,), when, LONG)))
        await asyncio.sleep(0)
    await eventually(lambda: bool(held.begun))
    held.go.set()
    await asyncio.gather(*tasks)
    assert held.begun == ["first", "old", "middle", "late"]


async def test_whoever_leaves_gives_up_the_turn_and_not_the_thread() -> None:
    held, computing = Held(), Computing(1)
    tasks = [
        asyncio.create_task(computing.run(held, (name,), 0.0, LONG)) for name in ("a", "b", "c")
    ]
    await eventually(lambda: bool(held.begun))
    tasks[1].cancel()
    tasks[0].cancel()
    await asyncio.wait(tasks[:2])
    await asyncio.sleep(0)
    assert held.begun == ["a"], "the thread is still at work for the one who left"
    held.go.set()
    assert await tasks[2] == "c"
    assert held.begun == ["a", "c"]


async def test_an_error_is_the_callers_and_the_next_one_has_its_turn() -> None:
    computing = Computing(1)
    with pytest.raises(ZeroDivisionError):
        await computing.run(divmod, (1, 0), 0.0, LONG)
    assert await computing.run(divmod, (7, 2), 0.0, LONG) == (3, 1)
