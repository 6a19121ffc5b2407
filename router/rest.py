"""Rest: what one server does (awake, asleep, on the way), and the line of calls that wait for it.

Live state, like load and breaker. Calls take a `Turn`: at once where the server is awake, else in
line. `router.sleep` decides and writes what the server does; nobody else does. A server whose model
does not sleep is `open` for good and costs nothing here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from router.faults import Blame, Fault, FaultError
from router.sleep_plan import NEVER, State

if TYPE_CHECKING:
    from router.backend import Guard

FRESH = 0.5
"""Weight of the newest wake in what is expected: the disk's cache makes one unlike the next."""
LONGEST = 3600.0
"""Seconds of `Retry-After` at most."""


def _nothing() -> None:
    """Nobody watches yet."""


class Turn:
    """One call's turn at a server. It holds the guard from the moment at which it has come."""

    __slots__ = ("_enter", "_fault", "_future", "_rest", "guard", "since")

    def __init__(self, rest: Rest, enter: Callable[[], Guard]) -> None:
        self.guard: Guard | None = None
        self.since = 0.0
        self._rest = rest
        self._enter = enter
        self._fault: Fault | None = None
        self._future: asyncio.Future[None] | None = None
        if rest.open:
            self.guard = enter()
        else:
            rest.stand_in_line(self)

    async def come(self) -> None:
        """Wait until it has come. Raises `FaultError` if the server cannot be had."""
        if self.guard is None and self._fault is None:
            self._future = asyncio.get_running_loop().create_future()
            await self._future
        if self._fault:
            raise FaultError(self._fault)

    def begin(self, fault: Fault | None = None) -> None:
        """It has come, or never will. The call counts from here, not from when its task runs on."""
        self._fault = fault
        if fault is None:
            self.guard = self._enter()
        if self._future and not self._future.done():
            self._future.set_result(None)

    def leave(self, blame: Blame | None) -> None:
        """The call is over, or nobody waits for it any more."""
        if self.guard:
            self.guard.leave(blame)
        elif self._fault is None:
            self._rest.leave_line(self)


class Rest:
    """One server's. Times by the clock that is given; `router.sleep` writes, all others read."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.managed = False
        self.open = True
        self.why = ""
        self.since = self.used = -NEVER
        self.free_at = 0.0
        self.asked = -NEVER
        self.line: dict[Turn, None] = {}
        self.known = asyncio.Event()
        self.changed: Callable[[], None] = _nothing
        self._state: State = "awake"
        self._draining = False
        self._wakes = self._guess = 0.0
        self._began = 0.0

    # ------------------------------------------------------------------------------ reading

    @property
    def state(self) -> State:
        """What the server does."""
        return self._state

    @property
    def draining(self) -> bool:
        """Whether it gets no new calls, since it must make room once it has none."""
        return self._draining

    @property
    def wanted(self) -> float | None:
        """Since when the first in line has waited; None if nobody does."""
        return next(iter(self.line)).since if self.line else None

    @property
    def wakes_in(self) -> float:
        """Seconds that waking takes, as measured; before that, as configured."""
        return self._wakes or self._guess

    @property
    def expected(self) -> float:
        """Seconds until a call that comes now could be sent to it; 0 if at once."""
        if self.open:
            return 0.0
        now = self.clock()
        if self._state == "waking":
            return max(self._began + self.wakes_in - now, 0.0)
        return max(self.free_at - now, 0.0) + self.wakes_in

    @property
    def retry_after(self) -> float:
        """The same for a client that is sent away: whole seconds, within reason."""
        return min(max(math.ceil(min(self.expected, LONGEST)), 1), LONGEST)

    # ------------------------------------------------------------------------------ the line

    def turn(self, enter: Callable[[], Guard]) -> Turn:
        """A turn for a call that is about to be made; `enter` counts it in."""
        return Turn(self, enter)

    def stand_in_line(self, turn: Turn) -> None:
        """A call waits: somebody must see to it."""
        turn.since = self.asked = self.clock()
        self.line[turn] = None
        self.changed()

    def leave_line(self, turn: Turn) -> None:
        """Whoever waited has gone."""
        if turn in self.line:
            del self.line[turn]
            self.changed()

    def left(self, in_flight: int) -> None:
        """A call has ended, and so many are still in flight."""
        self.used = self.clock()
        if self._draining and not in_flight:
            self.changed()

    def refuse(self, fault: Fault) -> None:
        """Nobody in line will be served."""
        line, self.line = self.line, {}
        for turn in line:
            turn.begin(fault)

    def _admit(self) -> None:
        line, self.line = self.line, {}
        for turn in line:
            turn.begin()

    # ------------------------------------------------------------------------------ writing

    def manage(self, guess: float) -> None:
        """From now on it may sleep; until it was asked, nobody knows whether it does."""
        self._guess = guess
        if not self.managed:
            self.managed = True
            self.enter("unknown")

    def release(self) -> None:
        """It is left awake for good."""
        self.managed, self.why = False, ""
        self.changed = _nothing
        self.known.set()
        self.enter("awake")

    def enter(self, state: State) -> None:
        """The server does this now."""
        self._state, self._draining = state, False
        now = self.clock()
        if state == "waking":
            self._began = now
        self._reopen()

    def woke(self, since: float) -> None:
        """It is awake since then, after a wake of this gateway's if it was waking."""
        if self._state == "waking":
            took = self.clock() - self._began
            self._wakes = FRESH * took + (1 - FRESH) * self._wakes if self._wakes else took
        self.since = since
        self.enter("awake")

    def drain(self, draining: bool, free_at: float) -> None:
        """What the plan says of it: whether it must make room, and when there is room for it."""
        self.free_at = free_at
        if draining != self._draining:
            self._draining = draining
            self._reopen()

    def _reopen(self) -> None:
        self.open = self._state == "awake" and not self._draining
        if self.open:
            self._admit()
