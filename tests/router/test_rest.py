"""One server's rest: the line of calls that wait, and what waking is known to take."""

from __future__ import annotations

import asyncio

import pytest

from router.backend import Backend
from router.breaker import BreakerSettings
from router.faults import Blame, Fault, FaultError


class Clock:
    """Virtual time in seconds."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backend(clock: Clock) -> Backend:
    """A server that sleeps."""
    made = Backend("http://b:1", BreakerSettings(), clock)
    made.rest.manage(5.0)
    made.rest.enter("asleep")
    return made


def test_where_nothing_sleeps_a_turn_comes_at_once() -> None:
    backend = Backend("http://b:1", BreakerSettings(), Clock())
    turn = backend.turn()
    assert backend.in_flight == 1
    turn.leave(None)
    turn.leave(None)
    assert backend.in_flight == 0


async def test_turns_come_when_it_wakes_and_count_from_then_on(backend: Backend) -> None:
    turns = [backend.turn() for _ in range(3)]
    waiting = [asyncio.create_task(turn.come()) for turn in turns]
    await asyncio.sleep(0)
    assert (backend.in_flight, len(backend.rest.line)) == (0, 3)
    backend.rest.woke(0.0)
    assert (backend.in_flight, len(backend.rest.line)) == (3, 0), "before any task has run on"
    await asyncio.gather(*waiting)
    for turn in turns:
        turn.leave(None)
    assert backend.in_flight == 0


async def test_one_that_came_while_nobody_looked_is_there(backend: Backend) -> None:
    turn = backend.turn()
    backend.rest.woke(0.0)
    await turn.come()
    assert turn.guard


async def test_one_that_leaves_is_not_counted(backend: Backend) -> None:
    turn = backend.turn()
    waiting = asyncio.create_task(turn.come())
    await asyncio.sleep(0)
    waiting.cancel()
    turn.leave(Blame.GONE)
    backend.rest.woke(0.0)
    assert backend.in_flight == 0


async def test_one_whose_client_leaves_at_that_very_moment_is_counted_out(backend: Backend) -> None:
    turn = backend.turn()
    waiting = asyncio.create_task(turn.come())
    await asyncio.sleep(0)
    backend.rest.woke(0.0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert backend.in_flight == 1
    turn.leave(Blame.GONE)
    assert backend.in_flight == 0


async def test_all_in_line_are_told_why_not(backend: Backend) -> None:
    turns = [backend.turn() for _ in range(2)]
    waiting = asyncio.create_task(turns[0].come())
    await asyncio.sleep(0)
    backend.rest.refuse(Fault(Blame.BACKEND, "it is gone"))
    for coming in (waiting, turns[1].come()):
        with pytest.raises(FaultError, match="it is gone"):
            await coming
    for turn in turns:
        turn.leave(Blame.BACKEND)
    assert backend.in_flight == 0


def test_a_server_that_must_make_room_gets_no_new_calls(backend: Backend) -> None:
    told: list[int] = []
    backend.rest.woke(0.0)
    running = backend.turn()
    backend.rest.drain(draining=True, free_at=0.0)
    late = backend.turn()
    assert (running.guard is None, late.guard is None) == (False, True)
    backend.rest.changed = lambda: told.append(backend.in_flight)
    running.leave(None)
    assert told == [0], "whoever waits for this hears of it"
    backend.rest.drain(draining=False, free_at=0.0)
    assert late.guard


def test_the_order_is_that_of_asking(backend: Backend, clock: Clock) -> None:
    assert backend.rest.wanted is None
    first = backend.turn()
    clock.now += 5
    backend.turn()
    assert backend.rest.wanted == 100.0
    first.leave(Blame.GONE)
    assert backend.rest.wanted == 105.0


def test_waking_takes_what_it_took(backend: Backend, clock: Clock) -> None:
    rest = backend.rest
    assert (rest.wakes_in, rest.expected) == (5.0, 5.0)
    for took, known in ((2.0, 2.0), (4.0, 3.0)):
        rest.enter("waking")
        clock.now += took / 2
        assert rest.expected == pytest.approx(max(rest.wakes_in - took / 2, 0.0))
        clock.now += took / 2
        rest.woke(clock.now)
        assert (rest.wakes_in, rest.expected) == (known, 0.0)
        rest.enter("asleep")
    rest.drain(draining=False, free_at=clock.now + 30)
    assert rest.expected == 33.0


@pytest.mark.parametrize(
    ("free_in", "told"), [(0.0, 5.0), (0.2, 6.0), (float("inf"), 3600.0)], ids=str
)
def test_clients_are_told_to_come_back_within_reason(
    backend: Backend, clock: Clock, free_in: float, told: float
) -> None:
    backend.rest.drain(draining=False, free_at=clock.now + free_in)
    assert backend.rest.retry_after == told
