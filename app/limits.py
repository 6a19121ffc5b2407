"""Buckets that refill evenly: so much at once, and then as fast as it refills.

Whoever has not used one for a minute may take a whole minute's worth at once, so in any one minute
at most twice as much. Time is passed in. `Bucket` is for what one process counts by itself; what
keys may use is counted for all processes together, in `app.state.use`.
"""

from __future__ import annotations

from collections.abc import Sequence

MINUTE = 60.0


def refilled(bucket: Sequence[float] | None, full: float | None, now: float) -> float:
    """The level now of a bucket (level, when, size) that refills evenly, `full` in a minute.

    One that had another size is as full, or as overdrawn, as it was: so a wait stays as long.
    """
    if full is None:
        return 0.0
    if bucket is None or not bucket[2]:
        return float(full)
    level = bucket[0] * full / bucket[2]
    return min(level + max(now - bucket[1], 0.0) * full / MINUTE, float(full))


class Bucket:
    """Holds `per_minute` units when full. The level may be negative."""

    __slots__ = ("_at", "_full", "_level")

    def __init__(self, per_minute: int, now: float) -> None:
        self._full = float(per_minute)
        self._level = self._full
        self._at = now

    def take(self, units: float, now: float) -> None:
        """Take `units`, whether or not they are there."""
        self._refill(now)
        self._level -= units

    def wait(self, now: float) -> float:
        """Seconds until one unit is there; 0 if it is there now."""
        self._refill(now)
        return 0.0 if self._level >= 1 else (1 - self._level) * MINUTE / self._full

    def _refill(self, now: float) -> None:
        self._level = refilled((self._level, self._at, self._full), self._full, now)
        self._at = now
