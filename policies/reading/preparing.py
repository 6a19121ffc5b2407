"""What is left of an index after its first question is embedded while nobody waits.

Knows indexes and one thread. The thread starts when there is something to do and ends when there is
not, so that nothing is left behind by a shelf that is gone; at the interpreter's exit it is stopped
and waited for, which takes as long as a window takes to embed. Indexes are held weakly: one that
was evicted, and that no request holds, is not prepared any further.
"""

from __future__ import annotations

import atexit
import logging
from collections import deque
from threading import Condition, Thread
from weakref import ref

from policies.reading.index import Embed, Index

__all__ = ["LONGEST_QUEUE", "Preparing"]

LONGEST_QUEUE = 64
"""Indexes that wait; of more, the oldest is left to its later questions."""
_AT_ONCE = 4
"""Windows between two looks whether to go on: few enough to be embedded on one core."""

log = logging.getLogger(__name__)


class Preparing:
    """Indexes that wait to be completed, last come first served. Safe to use from any thread."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[ref[Index], Embed]] = deque(maxlen=LONGEST_QUEUE)
        self._changed = Condition()
        self._thread: Thread | None = None
        self._stopped = False

    def add(self, index: Index, embed: Embed) -> None:
        """Begin with this index, unless it is complete, waits already, or all was stopped."""
        if not len(index.unread()):
            return
        with self._changed:
            if self._stopped or any(waiting() is index for waiting, _ in self._waiting):
                return
            self._waiting.append((ref(index), embed))
            if self._thread is None:
                self._thread = Thread(target=self._run, name="preparing", daemon=True)
                atexit.register(self.stop)
                self._thread.start()

    def settle(self, seconds: float | None = None) -> bool:
        """Wait until nothing is left to do; False if that takes longer than `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, seconds)

    def stop(self) -> None:
        """Leave the rest undone, and wait for the thread."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    atexit.unregister(self.stop)
                    self._changed.notify_all()
                    return
                waiting, embed = self._waiting[-1]
            if not self._some(waiting, embed):
                with self._changed:
                    if (waiting, embed) in self._waiting:
                        self._waiting.remove((waiting, embed))

    def _some(self, waiting: ref[Index], embed: Embed) -> bool:
        """Embed a few windows; whether some are left."""
        index = waiting()
        if index is None:
            return False
        some = index.unread()[:_AT_ONCE]
        if not len(some):
            return False
        try:
            index.learn(some, embed(index.read(some)))
        except Exception:  # whatever it is, questions embed what they need themselves
            log.exception("documents could not be prepared for later questions")
            return False
        return True
