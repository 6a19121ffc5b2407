"""The line in virtual time: who goes first, who is sent away, and that no place is ever lost."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.line import (
    BRIEF,
    HIGH,
    LEAST,
    LONGEST_RETRY,
    LOW,
    UNDER_WAY,
    Bounds,
    Class,
    Line,
    Place,
    Waiting,
)

FOREVER = math.inf


@dataclass(slots=True)
class Room:
    """Whose line it is: bounds that a test may change."""

    now: Bounds = field(default_factory=lambda: Bounds(1, 100, 10.0, 0.1))

    def bounds(self, share: float) -> Bounds:
        """What they are now; they are this process's already."""
        return self.now

    def has_place(self, taken: int, share: float) -> bool:
        """By the same bounds."""
        return taken < self.now.places


class World:
    """A line, its room, and the time."""

    def __init__(self, *, places: int = 1, waiting: int = 100, floor: float = 0.1) -> None:
        self.time = 1000.0
        self.room = Room(Bounds(places, waiting, 10.0, floor))
        self.line = Line(lambda: self.time)

    def comes(self, at: Class = HIGH, patience: float = FOREVER) -> Place | Waiting | str:
        """Somebody comes."""
        return self.line.enter(self.room) or self.line.stand(at, patience)

    def waits(self, at: Class = HIGH, patience: float = FOREVER) -> Waiting:
        """Somebody comes and has to wait."""
        waiting = self.comes(at, patience)
        assert isinstance(waiting, Waiting)
        return waiting

    def enters(self) -> Place:
        """Somebody comes and need not wait."""
        place = self.comes()
        assert isinstance(place, Place)
        return place

    def holds(self, seconds: float) -> None:
        """Somebody has held a place for so long: that is what is expected from now on."""
        place = self.line.take()
        self.time += seconds
        place.leave()


def served(place: Place, several: Sequence[Waiting]) -> list[int]:
    """In which order those who wait get the only place."""
    order = []
    while not all(waiting.over for waiting in several):
        place.leave()
        number = next(n for n, w in enumerate(several) if w.place and n not in order)
        order.append(number)
        place = several[number].place or place
    return order


def test_whoever_finds_a_place_does_not_wait() -> None:
    world = World(places=2)
    first, second = world.enters(), world.enters()
    assert world.line.taken == 2
    first.leave()
    second.leave()
    assert world.line.taken == 0


def test_first_come_first_served() -> None:
    world = World()
    place = world.enters()
    assert served(place, [world.waits() for _ in range(5)]) == [0, 1, 2, 3, 4]


def test_nobody_who_comes_goes_before_those_who_wait() -> None:
    """A place that came free is theirs, though they have not run on yet."""
    world = World()
    place, waiting = world.enters(), world.waits()
    place.leave()
    assert waiting.place
    assert isinstance(world.comes(), Waiting)


def test_answers_under_way_go_first_then_high_priority_then_low() -> None:
    world = World(floor=0.0)
    place = world.enters()
    several = [world.waits(at) for at in (LOW, HIGH, UNDER_WAY, LOW, HIGH, UNDER_WAY)]
    assert served(place, several) == [2, 5, 1, 4, 0, 3]


def test_those_of_low_priority_get_their_share() -> None:
    world = World(floor=0.25)
    place = world.enters()
    several = [world.waits(LOW) for _ in range(3)] + [world.waits(HIGH) for _ in range(9)]
    assert served(place, several) == [3, 4, 5, 0, 6, 7, 8, 1, 9, 10, 11, 2]


def test_new_ones_get_their_share_beside_answers_under_way() -> None:
    world = World(floor=0.5)
    place = world.enters()
    several = [world.waits(UNDER_WAY) for _ in range(4)] + [world.waits(HIGH), world.waits(LOW)]
    assert served(place, several)[:4] == [0, 4, 1, 5]


def test_without_a_floor_low_priority_waits_for_all_others() -> None:
    world = World(floor=0.0)
    place = world.enters()
    several = [world.waits(LOW), *(world.waits(HIGH) for _ in range(50))]
    assert served(place, several)[-1] == 0


def test_calls_of_one_answer_share_its_place() -> None:
    world = World()
    place = world.enters()
    place.share()
    place.leave()
    assert world.line.taken == 1
    place.leave()
    assert world.line.taken == 0


def test_a_place_that_is_kept_outlasts_its_calls() -> None:
    world = World()
    place = world.enters()
    place.keep()
    place.leave()
    assert place.taken
    assert world.line.taken == 1
    place.give_up()
    place.give_up()
    assert world.line.taken == 0


def test_a_full_line_sends_away_each_priority_for_itself() -> None:
    world = World(waiting=2)
    world.enters()
    for at in (HIGH, HIGH, LOW, LOW):
        world.waits(at)
    assert world.comes(HIGH) == "full"
    assert world.comes(LOW) == "full"
    assert isinstance(world.comes(UNDER_WAY), Waiting)


def test_a_line_that_is_too_slow_sends_away_at_once() -> None:
    world = World(places=2)
    world.holds(4.0)
    world.enters(), world.enters()
    foreseen = []
    for _ in range(4):
        world.waits()
        foreseen.append(world.line.expected(HIGH))
    assert foreseen == [4, 6, 8, 10]
    world.waits()
    assert world.line.expected(HIGH) == math.inf
    assert world.comes() == "slow"
    assert world.line.retry_after(HIGH) == 12


def test_whoever_has_little_time_is_told_so_sooner() -> None:
    world = World(places=2)
    world.holds(4.0)
    world.enters(), world.enters()
    for _ in range(LEAST):
        world.waits(patience=1.0)
    assert world.comes(patience=5.9) == "slow"
    assert isinstance(world.comes(patience=6.1), Waiting)


def test_a_line_that_stands_for_long_is_kept_short() -> None:
    world = World(places=10)
    world.holds(4.0)
    for _ in range(10):
        world.enters()
    several = [world.waits() for _ in range(20)]
    world.time += 10.1
    for waiting in several[:12]:
        waiting.overdue()
    assert world.line.expected(HIGH) == math.inf, "8 wait, and 6 are as many as can be served soon"
    for waiting in several[12:15]:
        waiting.overdue()
    assert world.line.expected(HIGH) == pytest.approx(6 * 0.4)
    assert world.line.expected(HIGH) <= 10 * BRIEF
    assert isinstance(world.comes(), Waiting)


def test_a_line_that_was_empty_in_between_may_be_long_again() -> None:
    world = World()
    world.holds(3.0)
    place, waiting = world.enters(), world.waits()
    world.time += 10.1
    waiting.overdue()
    for _ in range(LEAST + 1):
        world.waits()
    place.leave()
    assert world.line.waiting() == LEAST


def test_a_place_that_nobody_used_says_nothing_of_how_long_they_are_held() -> None:
    world = World()
    world.holds(4.0)
    place = world.enters()
    foreseen = world.line.expected(HIGH)
    place.return_unused()
    assert world.line.taken == 0
    world.enters()
    assert world.line.expected(HIGH) == foreseen == 4.0


def test_the_wait_of_low_priority_counts_its_own_share() -> None:
    world = World(places=1, floor=0.5)
    world.holds(1.0)
    world.enters()
    for _ in range(6):
        world.waits(HIGH)
    assert world.line.expected(HIGH) == 7
    assert world.line.expected(LOW) == 2


def test_an_idle_line_expects_no_wait() -> None:
    world = World()
    assert world.line.expected(HIGH) == 0
    world.holds(3.0)
    assert world.line.expected(HIGH) == 0
    assert 1 <= world.line.retry_after(HIGH) <= LONGEST_RETRY


def test_a_wait_that_is_over_leaves_no_trace() -> None:
    world = World()
    place, late, gone, third = world.enters(), world.waits(), world.waits(), world.waits()
    late.overdue()
    gone.leave()
    assert late.late
    assert late.place is None
    place.leave()
    assert third.place
    third.overdue()
    assert not third.late, "its turn had come"
    third.leave()
    assert world.line.taken == 0


def test_a_turn_that_nobody_wants_any_more_goes_to_the_next() -> None:
    world = World()
    place, gone, there = world.enters(), world.waits(), world.waits()
    place.leave()
    gone.leave()
    assert there.place


def test_where_no_server_is_up_nobody_waits() -> None:
    world = World()
    place, several = world.enters(), [world.waits(at) for at in (LOW, HIGH, UNDER_WAY)]
    world.room.now = Bounds(0, 100, 10.0, 0.1)
    place.leave()
    assert [waiting.over for waiting in several] == [True] * 3
    assert [waiting.place for waiting in several] == [None] * 3
    assert not any(waiting.late for waiting in several)


def test_more_places_are_given_out_when_somebody_looks() -> None:
    world = World()
    world.enters()
    several = [world.waits() for _ in range(3)]
    world.room.now = Bounds(3, 100, 10.0, 0.1)
    assert isinstance(world.comes(), Waiting)
    assert [bool(waiting.place) for waiting in several] == [True, True, False]


async def test_whoever_waits_is_woken() -> None:
    world = World()
    place, waiting, late = world.enters(), world.waits(), world.waits()
    tasks = [asyncio.create_task(each.come()) for each in (waiting, late)]
    await asyncio.sleep(0)
    late.overdue()
    place.leave()
    assert await tasks[0] is waiting.place
    assert await tasks[1] is None
    assert await waiting.come() is waiting.place


# ------------------------------------------------------------------------ whatever may happen


MOVES = st.sampled_from(["comes", "leaves", "late", "gone", "keeps", "time", "server"])


class Watched(World):
    """A world in which anything happens, and all that must hold is looked at after each move."""

    def __init__(self, pick: Callable[[int], int]) -> None:
        super().__init__(places=2, waiting=3, floor=0.2)
        self.pick = pick
        self.placed: list[Place] = []
        self.queue: list[Waiting] = []

    def arrive(self) -> None:
        """Somebody comes."""
        came = self.comes((UNDER_WAY, HIGH, LOW)[self.pick(3)])
        if isinstance(came, Place):
            self.placed.append(came)
        elif isinstance(came, Waiting):
            self.queue.append(came)

    def move(self, kind: str) -> None:
        """One thing happens."""
        match kind:
            case "comes":
                self.arrive()
            case "leaves" if self.placed:
                place = self.placed.pop(self.pick(len(self.placed)))
                place.leave()
                place.give_up()
            case "keeps" if self.placed:
                self.placed[self.pick(len(self.placed))].keep()
            case "late" | "gone" if self.queue:
                waiting = self.queue.pop(self.pick(len(self.queue)))
                waiting.overdue() if kind == "late" else waiting.leave()
            case "time":
                self.time += 3.0
            case "server":
                self.room.now = Bounds(self.pick(4), 3, 10.0, 0.2)
            case _:
                pass  # there is nobody to whom it could happen
        for waiting in [each for each in self.queue if each.over]:
            self.queue.remove(waiting)
            if waiting.place:
                self.placed.append(waiting.place)

    def look(self) -> None:
        """What must be true at any time."""
        assert self.line.taken == len(self.placed)
        assert self.line.waiting() == len(self.queue)
        assert self.line.waiting(HIGH) <= 3
        assert self.line.waiting(LOW) <= 3
        assert all(place.taken for place in self.placed)


@given(st.lists(MOVES, max_size=60), st.randoms(use_true_random=False))
def test_no_place_is_lost_and_none_is_given_twice(moves: list[str], rng: random.Random) -> None:
    world = Watched(rng.randrange)
    for kind in moves:
        world.move(kind)
        world.look()
    world.room.now = Bounds(1, 3, 10.0, 0.2)
    while world.placed or world.queue:
        world.move("leaves" if world.placed else "late")
        world.look()
    assert world.line.taken == 0


@given(
    floor=st.floats(0.05, 0.5),
    at=st.sampled_from([HIGH, LOW]),
    others=st.lists(st.sampled_from([UNDER_WAY, HIGH, LOW]), min_size=1, max_size=4),
)
def test_nobody_starves(floor: float, at: Class, others: list[Class]) -> None:
    """Whoever is at the head of a line gets a place, however many of any kind keep coming."""
    world = World(floor=floor, waiting=10_000)
    place, mine = world.enters(), world.waits(at)
    for _ in range((math.ceil(1 / floor) + 1) ** 2 + 2):
        if mine.place:
            return
        several = [*world.line._lines[0], *world.line._lines[1], *world.line._lines[2]]
        several += [world.waits(other) for other in others]
        place.leave()
        place = next(w.place for w in several if w.place)
    assert mine.place


@given(places=st.integers(1, 20), held=st.floats(0.5, 5.0), number=st.integers(1, 30))
def test_waits_are_as_foreseen(places: int, held: float, number: int) -> None:
    """Every place is held for as long, and one comes free after the other."""
    world = World(places=places, waiting=1000)
    world.room.now = Bounds(places, 1000, 1000.0, 0.1)
    world.holds(held)
    taken = deque[Place]()
    for _ in range(places):
        taken.append(world.enters())
        world.time += held / places
    came, waits = world.time, list[tuple[float, Waiting]]()
    for _ in range(number):
        foreseen = world.line.expected(HIGH)
        waits.append((foreseen, world.waits()))
    for foreseen, waiting in waits:
        taken.popleft().leave()
        assert waiting.place
        assert world.time - came == pytest.approx(foreseen - held / places, abs=1e-6)
        taken.append(waiting.place)
        world.time += held / places
