"""The line: who has a place with a model's servers, and who waits for one.

A pool with a `queue` has so many *places*: an answer that is being written takes one, however many
calls it is made of. Who comes when all are taken waits in one of three lines, each of them first
come, first served: answers under way go first, then requests of high priority, then those of low.
Whoever is behind still gets a share of the places that become free, so that nobody starves.

Nobody waits in vain if that can be foreseen: from how long places are held follows how fast the
line moves (Little's law), and a request that would wait too long is told so at once, before any
work is done for it. A line that has not been empty for a while is no burst but overload; then only
a short one is kept, which loses no throughput and spares all who are served the long wait (after
CoDel, Nichols and Jacobson 2012).

Live state of a pool. It knows numbers and time, neither requests nor backends nor settings: those
come as `Bounds` from the pool of whoever came last, so that a swap of the configuration needs
nobody to tell the line.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

Class: TypeAlias = Literal[0, 1, 2]
"""Which of the lines: answers under way, high priority, low."""
UNDER_WAY: Class = 0
HIGH: Class = 1
LOW: Class = 2
NEWEST = 0.05
"""Weight of the newest time that a place was held in the average: some twenty answers count."""
BRIEF = 0.25
"""Share of the longest wait that is left in overload."""
LEAST = 2
"""Requests that may always wait, so that a place that becomes free finds somebody."""
LONGEST_RETRY = 60.0
"""Seconds of `Retry-After` at most: OpenAI's clients do not heed longer ones."""

Refusal: TypeAlias = Literal["full", "slow"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a pool's settings and the health of its servers come to at this moment.

    `places` in all, `waiting` at most of each priority, `longest` wait in seconds, `floor`: of the
    places that become free, the share that goes to those behind. No places: no server is up.
    """

    places: int
    waiting: int
    longest: float
    floor: float


class Room(Protocol):
    """Whose line it is."""

    def bounds(self, share: float) -> Bounds:
        """Its bounds now, of which this process has so large a share."""

    def has_place(self, taken: int, share: float) -> bool:
        """Whether there is a place beside those taken; quicker than to ask for all bounds."""


class Place:
    """A place. Calls of one answer share it; it is free when none is left and nobody keeps it."""

    __slots__ = ("_calls", "_kept", "_line", "since", "used")

    def __init__(self, line: Line, since: float) -> None:
        self._line = line
        self._calls = 1
        self._kept = False
        self.since = since
        self.used = True

    @property
    def taken(self) -> bool:
        """Whether it is still this answer's."""
        return self._kept or self._calls > 0

    def share(self) -> None:
        """One more call of the answer."""
        self._calls += 1

    def leave(self) -> None:
        """One call is over."""
        self._calls -= 1
        self._free()

    def return_unused(self) -> None:
        """No call was made after all."""
        self.used = self._kept or self._calls > 1
        self.leave()

    def keep(self) -> None:
        """Hold it between calls, too: the client has seen a part of what is written here."""
        self._kept = True

    def give_up(self) -> None:
        """The answer is over."""
        if self._kept:
            self._kept = False
            self._free()

    def _free(self) -> None:
        if not self.taken:
            self._line.leave(self)


class Waiting:
    """Somebody in line. `place` is there once the turn has come; `late` says that time is over."""

    __slots__ = ("_future", "_line", "at", "late", "over", "place")

    def __init__(self, line: Line, at: Class) -> None:
        self._line = line
        self._future: asyncio.Future[None] | None = None
        self.at = at
        self.late = self.over = False
        self.place: Place | None = None

    async def come(self) -> Place | None:
        """Wait for the turn. None if it will not come: it is too late, or no server is up."""
        if not self.over:
            self._future = asyncio.get_running_loop().create_future()
            await self._future
        return self.place

    def begin(self, place: Place | None) -> None:
        """The turn has come, or never will. The place counts from here on."""
        self.place, self.over = place, True
        if self._future and not self._future.done():
            self._future.set_result(None)

    def overdue(self) -> None:
        """The time to wait is over."""
        if not self.over:
            self._line.drop(self)
            self.late = True
            self.begin(None)

    def leave(self) -> None:
        """Nobody waits any more, and nobody wants the place."""
        self._line.drop(self)
        if self.place:
            self.place.return_unused()


class Line:
    """All lines of one pool, and the places. Times in seconds by the clock that is given."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.taken = 0
        self._clock = clock
        self.share = 1.0
        self._room: Room | None = None
        self._lines: tuple[dict[Waiting, None], ...] = ({}, {}, {})
        self._stood = [0.0, 0.0, 0.0]
        self._owed = [0.0, 0.0]
        self._held = 0.0
        self._waiting = 0

    # ------------------------------------------------------------------------------ reading

    def waiting(self, at: Class | None = None) -> int:
        """How many wait, in one line or in all."""
        return self._waiting if at is None else len(self._lines[at])

    def expected(self, at: Class) -> float:
        """Seconds that somebody who comes now must be expected to wait, 0 if not at all; infinite
        for one who would be sent away.
        """
        if self._room is None:
            return 0.0
        bounds = self._room.bounds(self.share)
        if bounds.places == 0 or not (self._waiting or self.taken >= bounds.places):
            return 0.0
        return math.inf if self._refusal(at, math.inf, bounds) else self._wait(at, bounds)

    def retry_after(self, at: Class) -> float:
        """Seconds after which those who wait now will have gone: for one who is sent away."""
        if self._room is None:
            return 1.0
        bounds = self._room.bounds(self.share)
        wait = self._wait(at, bounds) if bounds.places else 0.0
        return min(max(wait, 1.0), LONGEST_RETRY)

    def _wait(self, at: Class, bounds: Bounds) -> float:
        """By Little's law: a place becomes free every `held / places` seconds."""
        ahead = 1.0 + sum(len(line) for line in self._lines[: at + 1])
        if bounds.floor and at and ahead > 1 + len(self._lines[at]):
            ahead = min(ahead, (1 + len(self._lines[at])) / bounds.floor)
        return ahead * self._held / bounds.places

    # ------------------------------------------------------------------------------ coming

    def enter(self, room: Room, share: float = 1.0) -> Place | None:
        """A place at once, if one is free and nobody waits for it."""
        self._room, self.share = room, share
        if self._waiting:
            self.admit()
        if self._waiting or not room.has_place(self.taken, share):
            return None
        return self.take()

    def take(self) -> Place:
        """A place whether or not one is free, for an answer that cannot be stopped any more."""
        self.taken += 1
        return Place(self, self._clock())

    def stand(self, at: Class, patience: float) -> Waiting | Refusal:
        """Stand in line, or learn why not to; whoever stands waits `patience` seconds at most.

        Only after `enter`.
        """
        assert self._room is not None
        if refusal := self._refusal(at, patience, self._room.bounds(self.share)):
            return refusal
        line = self._lines[at]
        if not line:
            self._stood[at] = self._clock()
        waiting = Waiting(self, at)
        line[waiting] = None
        self._waiting += 1
        return waiting

    def _refusal(self, at: Class, patience: float, bounds: Bounds) -> Refusal | None:
        line = self._lines[at]
        if at == UNDER_WAY:
            return None
        if len(line) >= bounds.waiting:
            return "full"
        overload = line and self._clock() - self._stood[at] > bounds.longest
        allowed = min(bounds.longest * (BRIEF if overload else 1.0), patience)
        if len(line) >= LEAST and bounds.places and self._wait(at, bounds) > allowed:
            return "slow"
        return None

    # ------------------------------------------------------------------------------ going

    def leave(self, place: Place) -> None:
        """A place is free again."""
        if place.used:
            held = self._clock() - place.since
            self._held += (held - self._held) * (NEWEST if self._held else 1.0)
        self.taken -= 1
        if self._waiting:
            self.admit()

    def drop(self, waiting: Waiting) -> None:
        """Whoever waited has gone."""
        if waiting in self._lines[waiting.at]:
            del self._lines[waiting.at][waiting]
            self._waiting -= 1

    def admit(self) -> None:
        """Give out the places that are free. If there are none at all, nobody waits for them."""
        if self._room is None or not self._waiting:
            return
        bounds = self._room.bounds(self.share)
        while self._waiting and (self.taken < bounds.places or bounds.places == 0):
            waiting = self._next(bounds.floor)
            self.drop(waiting)
            waiting.begin(self.take() if bounds.places else None)

    def _next(self, floor: float) -> Waiting:
        """Who is first, or who is behind, when a share of `floor` is owed to those behind."""
        for at in (UNDER_WAY, HIGH):
            if not self._lines[at]:
                continue
            if any(self._lines[at + 1 :]):
                self._owed[at] += floor
                if self._owed[at] >= 1:
                    self._owed[at] -= 1
                    continue
            return next(iter(self._lines[at]))
        return next(iter(self._lines[LOW]))
