"""The retry budget: retries may be a share of the traffic, never a storm on top of it.

A token bucket: each request pays in `share`, each retry takes one out, and what is not used fades;
a small floor is refilled with time, so that a quiet gateway can retry too. After Finagle's
RetryBudget.
"""

from __future__ import annotations

import math

from router.backend import Clock

WINDOW = 10.0
"""Seconds after which a saved retry weighs 1/e, and the time that refills the floor once: a long
calm must not pay for a storm."""


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
        self._pass_time()
        self._saved += self._share

    def withdraw(self) -> bool:
        """Take one retry out, if there is one."""
        self._pass_time()
        if self._saved >= 1:
            self._saved -= 1
        elif self._reserve >= 1:
            self._reserve -= 1
        else:
            return False
        return True

    def _pass_time(self) -> None:
        now = self._clock()
        windows = (now - self._at) / WINDOW
        self._saved *= math.exp(-windows)
        self._reserve = min(self._reserve + windows * self._floor, self._floor)
        self._at = now
