"""Patience: how long a wait may last before it is broken off.

It works like `asyncio.timeout`, by cancelling the task that waits and taking that cancellation
back, but it costs an alarm and a few attributes. It knows tasks and time, neither calls nor
requests.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from router.alarms import Alarm, Alarms


class Patience:
    """Breaks off a wait in which nothing was heard for `limit` seconds.

    One alarm, which is not moved with everything that is heard: when it rings, it looks whether
    anything was, and if so is set anew. Only time spent waiting counts: while the client reads
    slowly, nobody listens to the backend.
    """

    __slots__ = ("_alarm", "_alarms", "_broke", "_limit", "_since", "_task", "_waiting")

    def __init__(self, alarms: Alarms, limit: float) -> None:
        self._alarms = alarms
        self._limit = limit
        self._since = 0.0
        self._broke = self._waiting = False
        self._task: asyncio.Task[object] | None = None
        self._alarm: Alarm | None = None

    def begin(self) -> None:
        """The current task starts to wait, or goes on after a pause."""
        self._task = self._task or asyncio.current_task()
        self._waiting = True
        self._since = monotonic()
        if self._alarm is None:
            self._alarm = self._alarms.after(self._limit, self._look)

    def heard(self) -> None:
        """Something came; the wait goes on."""
        self._since = monotonic()

    def limit(self, seconds: float) -> None:
        """From now on this limit holds."""
        if seconds < self._limit and self._alarm:
            self._alarm.cancel()
            self._alarm = self._alarms.after(seconds, self._look)
        self._limit = seconds

    def pause(self) -> None:
        """The task has something else to do before it waits again."""
        self._waiting = False

    def end(self) -> None:
        """This task waits no more; another one may."""
        self._waiting, self._task = False, None

    def stop(self) -> None:
        """The wait is over for good."""
        self.end()
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None

    def broke_it(self) -> bool:
        """Whether the cancellation that the waiting task has just seen came from here alone."""
        if not self._broke or self._task is None:
            return False
        self._broke = False
        return self._task.uncancel() == 0

    def _look(self) -> None:
        self._alarm = None
        if self._task is None or not self._waiting:
            return  # the next `begin` sets a new alarm
        left = self._since + self._limit - monotonic()
        if left > 0:
            self._alarm = self._alarms.after(left, self._look)
        else:
            self._broke = True
            self._task.cancel()
