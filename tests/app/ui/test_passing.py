"""Decisions of several processes on one page."""

from __future__ import annotations

from app.state.memory import MemoryStore
from app.ui.passing import EVERY, Passing
from app.ui.recent import TOLD, Recent
from router.faults import Blame
from tests.app.observations import request


async def exchanged(*several: Passing) -> None:
    """Long enough for each to have told and heard."""
    for _ in range(2 * EVERY):
        for passing in several:
            await passing.exchange()


async def test_each_shows_what_all_have_decided_newest_first() -> None:
    store, times = MemoryStore(), iter(range(100))
    one, other = Recent(lambda: next(times)), Recent(lambda: next(times))
    both = Passing(store, "one", one), Passing(store, "other", other)
    one(request(id="first", blame=Blame.BACKEND))
    other(request(id="second"))
    one(request(id="third"))
    await exchanged(*both)
    for recent in (one, other):
        kept = await recent.decisions()
        assert [decision.id for decision in kept] == ["third", "second", "first"]
        assert kept[2].fault is Blame.BACKEND
    assert await one.decisions() == await other.decisions()


async def test_a_busy_process_tells_a_sample_and_each_once() -> None:
    store = MemoryStore()
    busy, other = Recent(), Recent()
    for number in range(50):
        busy(request(id=str(number)))
    await exchanged(Passing(store, "busy", busy), Passing(store, "other", other))
    heard = [decision.id for decision in await other.decisions()]
    assert sorted(heard) == [str(n) for n in range(50 - TOLD, 50)]
    assert len(await busy.decisions()) == 50
