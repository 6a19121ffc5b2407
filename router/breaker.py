"""The breaker: keeps calls away from a backend that keeps failing, written as control flow.

    closed   calls flow; `failures` of the backend's own in a row end this
    open     no calls for a pause, which doubles with each failed trial up to `longest`
    trial    one call may pass: if it goes well, closed again; if not, the next, longer pause

Another process may say that its own has opened: then one failure more is enough here.

It knows outcomes and the time of each, nothing else: no clock, no timer, no backend. A client's
mistake and a busy backend never reach it (see `router.backend`), so neither can open it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Never


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """`failures` in a row that open it; the first pause and the `longest` one, in seconds."""

    failures: int = 5
    wait: float = 2.0
    longest: float = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, and when (seconds, any monotonic clock).

    `trial`: it was the trial call. `elsewhere`: it was no call, but what another process has seen.
    """

    ok: bool
    at: float
    trial: bool = False
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """What the breaker allows: everything (`until` is None), or one trial from `until` on."""

    until: float | None = None


def control(settings: BreakerSettings) -> Generator[Gate, Outcome, Never]:
    """The life of a breaker: yields what it allows now, is sent each call's outcome."""
    while True:
        failures = 0
        while failures < settings.failures:
            outcome = yield Gate()
            if outcome.elsewhere:
                failures = max(failures, settings.failures - 1)
            else:
                failures = 0 if outcome.ok else failures + 1
        pause = settings.wait
        while not outcome.ok:
            gate = Gate(until=outcome.at + pause)
            outcome = yield gate
            while not outcome.trial:  # a late answer to a call from before the pause
                outcome = yield gate
            pause = min(2 * pause, settings.longest)


class Breaker:
    """A backend's breaker: asks `control` and keeps at most one trial call under way."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._control = control(settings)
        self._gate = next(self._control)
        self._trial = False

    @property
    def open(self) -> bool:
        """Whether calls are being kept away (the trial call included)."""
        return self._gate.until is not None

    def allows(self, now: float) -> bool:
        """Whether a call may be made now."""
        until = self._gate.until
        return until is None or (now >= until and not self._trial)

    def enter(self) -> bool:
        """A call is made: says whether it is the trial call, which `leave` and `forget` want."""
        self._trial = self._gate.until is not None
        return self._trial

    def leave(self, outcome: Outcome) -> None:
        """A call ended."""
        if outcome.trial:
            self._trial = False
        self._gate = self._control.send(outcome)

    def warn(self) -> None:
        """Another process has seen this backend fail."""
        self._gate = self._control.send(Outcome(ok=False, at=0.0, elsewhere=True))

    def forget(self, trial: bool) -> None:
        """A call ended without telling anything about the backend (its client left, say)."""
        if trial:
            self._trial = False
