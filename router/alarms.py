"""Alarms: timers that cost next to nothing to set and to cancel, and may ring a little late.

Every request sets a few limits and nearly always cancels them all. An event loop's timer costs some
ten microseconds each time (uvloop's are libuv handles), more than all else that a short request
needs of the engine. So alarms of the same moment share a slot of a wheel, and one timer of the loop
turns it while any alarm is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

GRAIN = 0.01
"""Seconds per slot, and so the most that an alarm rings late on an idle loop: the shortest limit
that anyone sets is a tenth of a second."""


def _silence() -> None:
    """What a cancelled alarm rings."""


class Alarm:
    """One alarm; `cancel` is harmless after it rang."""

    __slots__ = ("_slot", "ring")

    def __init__(self, slot: set[Alarm], ring: Callable[[], None]) -> None:
        self._slot = slot
        self.ring = ring

    def cancel(self) -> None:
        """Do not ring."""
        self._slot.discard(self)
        self.ring = _silence  # whoever set the alarm also holds it: no cycle


class Alarms:
    """All alarms of one event loop."""

    def __init__(self) -> None:
        self._slots: dict[int, set[Alarm]] = {}
        self._turned = 0
        self._timer: asyncio.TimerHandle | None = None

    def after(self, seconds: float, ring: Callable[[], None]) -> Alarm:
        """Call `ring` in so many seconds; it must be quick and must not raise."""
        if self._timer is None:
            self._turned = int(monotonic() / GRAIN)
            self._wind()
        number = max(int((monotonic() + seconds) / GRAIN), self._turned) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = set()
        alarm = Alarm(slot, ring)
        slot.add(alarm)
        return alarm

    def close(self) -> None:
        """Ring no more."""
        self._slots.clear()
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _wind(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(GRAIN, self._turn)

    def _turn(self) -> None:
        now = int(monotonic() / GRAIN)
        for number in range(self._turned + 1, now + 1):
            for alarm in tuple(self._slots.pop(number, ())):
                alarm.ring()
        self._turned = max(now, self._turned)
        if self._slots:
            self._wind()
        else:
            self._timer = None
