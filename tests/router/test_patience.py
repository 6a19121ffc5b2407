"""Patience: a wait in which nothing is heard is broken off, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from router.alarms import Alarms
from router.patience import Patience
from tests.in_memory import PATIENCE

SHORT = 0.03
"""Seconds: long against the grain of an alarm."""


@pytest.fixture
async def alarms() -> AsyncIterator[Alarms]:
    made = Alarms()
    yield made
    made.close()


async def wait_for_ever(patience: Patience) -> bool:
    """Whether it was patience that broke the wait off."""
    patience.begin()
    try:
        await asyncio.sleep(PATIENCE)
    except asyncio.CancelledError:
        if not patience.broke_it():
            raise
        return True
    finally:
        patience.stop()
    return False


async def test_a_silent_wait_is_broken_off(alarms: Alarms) -> None:
    assert await wait_for_ever(Patience(alarms, SHORT))
    task = asyncio.current_task()
    assert task
    assert not task.cancelling(), "the cancellation was taken back"


async def test_a_cancellation_from_elsewhere_is_not_taken_back(alarms: Alarms) -> None:
    waiting = asyncio.create_task(wait_for_ever(Patience(alarms, PATIENCE)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_whoever_is_heard_is_waited_for(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under virtual time, and with an alarm that rings when the test says so."""
    rings: list[Callable[[], None]] = []
    clock = iter((0.0, 0.9, 1.0, 2.0))  # begin, heard, ring, ring
    monkeypatch.setattr("router.patience.monotonic", lambda: next(clock))
    monkeypatch.setattr(alarms, "after", lambda _, ring: rings.append(ring))
    task = asyncio.current_task()
    assert task
    patience = Patience(alarms, 1.0)
    patience.begin()
    patience.heard()
    rings.pop()()
    assert not task.cancelling(), "it was heard a tenth of a second ago"
    rings.pop()()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(PATIENCE)
    assert patience.broke_it()


@pytest.mark.parametrize("way", ["pause", "end", "stop"])
async def test_nobody_is_cancelled_who_does_not_wait(alarms: Alarms, way: str) -> None:
    patience = Patience(alarms, SHORT)
    patience.begin()
    getattr(patience, way)()
    rang = asyncio.Event()
    alarms.after(2 * SHORT, rang.set)
    await asyncio.wait_for(rang.wait(), PATIENCE)


async def test_after_a_pause_the_limit_counts_anew(alarms: Alarms) -> None:
    patience = Patience(alarms, SHORT)
    patience.begin()
    patience.pause()
    rang = asyncio.Event()
    alarms.after(2 * SHORT, rang.set)
    await rang.wait()
    assert await wait_for_ever(patience)


async def test_a_shorter_limit_holds_at_once(alarms: Alarms) -> None:
    patience = Patience(alarms, PATIENCE)
    patience.begin()
    patience.limit(SHORT)
    assert await wait_for_ever(patience)
