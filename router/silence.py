"""Silence: the limit on how long a call may say nothing.

It works like `asyncio.timeout`, by cancelling the task that waits and taking that cancellation
back, but it costs one attribute per part heard instead of a timer. It knows tasks and time, not
calls.
"""

from __future__ import annotations

import asyncio


class Silence:
    """Breaks off a wait that has heard nothing for too long, at no cost per part.

    One timer per call. It is not moved with each part: when it fires, it looks whether anything was
    heard since it was set, and if so sets itself anew.
    """

    __slots__ = ("_broke", "_last", "_limit", "_task", "_timer")

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0.0
        self._limit = 0.0
        self._broke = False

    def begin(self, limit: float | None) -> None:
        """The current task starts to wait; `limit` in seconds, None to keep the one that is."""
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        if limit is not None:
            self._limit = limit
        if self._timer is None:
            self._timer = loop.call_at(self._last + self._limit, self._look)

    def heard(self, limit: float) -> None:
        """Something came; from now on `limit` holds."""
        self._last = asyncio.get_running_loop().time()
        if limit < self._limit and self._timer:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(self._last + limit, self._look)
        self._limit = limit

    def end(self) -> None:
        """Nobody waits any more."""
        self._task = None

    def stop(self) -> None:
        """The wait is over for good."""
        self._task = None
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def broke_it(self) -> bool:
        """Whether the cancellation that the waiting task has just seen came from here alone."""
        if not self._broke or self._task is None:
            return False
        self._broke = False
        return self._task.uncancel() == 0

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        if self._task is None:
            return  # the next `begin` sets a new timer
        due = self._last + self._limit
        if loop.time() < due:
            self._timer = loop.call_at(due, self._look)
        else:
            self._broke = True
            self._task.cancel()
