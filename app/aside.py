"""A thread of its own for what must not keep the loop: done every so often, and once at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Aside"]


class Aside(threading.Thread):
    """Does `work` every `interval` seconds until it is ended. It does not keep the process alive.

    It is not woken when there is something to do: that would cost the loop more than most of the
    work itself.
    """

    def __init__(self, name: str, work: Callable[[], None], interval: float) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._interval = interval
        self._ending = threading.Event()

    def run(self) -> None:
        """What the thread does."""
        while not self._ending.wait(self._interval):
            self._work()
        self._work()

    def end(self, patience: float) -> bool:
        """Have it done a last time; whether that was over within so many seconds."""
        self._ending.set()
        self.join(patience)
        return not self.is_alive()
