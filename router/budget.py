"""The retry budget: retries may be a share of the traffic, never a storm on top of it.

A token bucket: each request pays in `share`, each retry takes one out; a small floor is refilled
with time, so that a quiet gateway can retry too. After Finagle's RetryBudget.
"""

from __future__ import annotations

from router.backend import Clock

WINDOW = 10.0
"""Seconds of traffic that the bucket can remember, and the time that refills the floor once."""
FULLEST = 1_000.0
"""Retries saved up at most, so that a long calm does not pay for a storm."""


class RetryBudget:
    """`share` retries per request, and `floor` retries per 10 seconds in any case."""

    def __init__(self, share: float, floor: float, clock: Clock) -> None:
        self._share = share
        self._floor = floor
        self._clock = clock
        self._saved = 0.0
        self._reserve = floor
        self._at = clock()

    def deposit(self) -> None:
        """A request came in."""
        self._saved = min(self._saved + self._share, FULLEST)

    def withdraw(self) -> bool:
        """Take one retry out, if there is one."""
        now = self._clock()
        refill = (now - self._at) / WINDOW * self._floor
        self._reserve = min(self._reserve + refill, self._floor)
        self._at = now
        if self._saved >= 1:
            self._saved -= 1
        elif self._reserve >= 1:
            self._reserve -= 1
        else:
            return False
        return True
