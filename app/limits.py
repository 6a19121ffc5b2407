"""A bucket that refills evenly: so many at once, and then as fast as it refills.

Whoever has not used it for a minute may take a whole minute's worth at once, so in any one minute
at most twice as much. Time is passed in. What keys may use is counted for all processes together,
in `app.state.use`; this is for what each process counts by itself.
"""

from __future__ import annotations

MINUTE = 60.0


class Bucket:
    """Holds `per_minute` units when full and refills evenly. The level may be negative."""

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

    def inherit(self, other: Bucket, now: float) -> None:
        """Be as full or as overdrawn as a bucket of another size, so that a wait stays as long."""
        other._refill(now)
        self._level = self._full * other._level / other._full

    def _refill(self, now: float) -> None:
        gained = (now - self._at) * self._full / MINUTE
        self._level = min(self._level + gained, self._full)
        self._at = now
