"""A backend: one endpoint of a pool, its load, latency, health and breaker. The live state.

Load is a guard: `enter` counts a call in, and the guard counts it out when its *stream* ends, once,
whatever happened. Nothing else changes `in_flight`. Latency is a peak-EWMA over the time to first
byte: it jumps to a slow answer at once and forgets it slowly, so that a backend that has begun to
stall loses traffic with its first slow answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from router.breaker import Breaker, BreakerSettings, Outcome
from router.faults import Blame
from router.fleet import Abilities
from router.rest import Rest, Turn

State: TypeAlias = Literal["healthy", "unhealthy", "open", "probing"]
Clock: TypeAlias = Callable[[], float]

DECAY = 10.0
"""Seconds after which a past peak weighs 1/e. Finagle, where the measure comes from, uses 10 s."""


class PeakEwma:
    """An estimate of latency in seconds that rises at once and falls with time constant `DECAY`."""

    def __init__(self) -> None:
        self.value = 0.0
        self._at = 0.0

    def add(self, seconds: float, now: float) -> None:
        """Learn one latency."""
        weight = math.exp(-max(now - self._at, 0.0) / DECAY)
        average = self.value * weight + seconds * (1 - weight)
        self.value = max(seconds, average) if self.value else seconds
        self._at = now

    def at(self, now: float) -> float:
        """What is left of the estimate: one that nobody renews fades, lest a single slow answer
        keep a backend without calls, and so without a better answer, for good.
        """
        return self.value * math.exp(-max(now - self._at, 0.0) / DECAY)


class Guard:
    """One call in flight. `leave` is called once, by whoever ends the call."""

    __slots__ = ("_backend", "_left", "trial")

    def __init__(self, backend: Backend, trial: bool) -> None:
        self._backend = backend
        self._left = False
        self.trial = trial

    def heard(self, seconds: float) -> None:
        """The answer has begun, after so many seconds: a trial call that gets so far has passed,
        however long the rest of it streams.
        """
        self._backend.heard(seconds)
        if self.trial:
            self._backend.passed()
            self.trial = False

    def leave(self, blame: Blame | None) -> None:
        """Count the call out; only a backend's own failures and clean ends reach its breaker."""
        if self._left:
            return
        self._left = True
        self._backend.settle(self, blame)


class Backend:
    """One endpoint. `name` is host:port, as metrics and headers show it; `url` has no `/v1`.

    `healthy`, `probed`, `why` (it is not healthy) and `abilities` are `router.health`'s to write,
    `rest` (whether it sleeps) is `router.sleep`'s.
    """

    def __init__(self, url: str, breaker: BreakerSettings, clock: Clock) -> None:
        self.url = url
        self.name = urlsplit(url).netloc
        self.in_flight = 0
        self.healthy = True
        self.probed = False
        self.why = ""
        self.abilities = Abilities()
        self.latency = PeakEwma()
        self.rest = Rest(clock)
        self._breaker = Breaker(breaker)
        self._clock = clock

    def __repr__(self) -> str:
        return f"Backend({self.name}, {self.state}, in_flight={self.in_flight})"

    @property
    def state(self) -> State:
        """For people and metrics: the worst thing known of it."""
        if not self.healthy:
            return "unhealthy"
        if self._breaker.open:
            return "open"
        return "healthy" if self.probed else "probing"

    @property
    def ready(self) -> bool:
        """Whether a call may be sent to it now."""
        return self.healthy and self._breaker.allows(self._clock())

    @property
    def expected(self) -> float:
        """The time to first byte to expect of it now, in seconds; 0 if nothing is known."""
        return self.latency.at(self._clock())

    @property
    def awake(self) -> bool:
        """Whether a call would be sent to it at once, as far as sleep is concerned."""
        return self.rest.open

    @property
    def failing(self) -> bool:
        """Whether its breaker is open."""
        return self._breaker.open

    def warn(self) -> None:
        """Another process has seen it fail: one failure more is enough here."""
        self._breaker.warn()

    def turn(self) -> Turn:
        """A turn for one call: counted in at once, or when the server is awake."""
        return self.rest.turn(self.enter)

    def enter(self) -> Guard:
        """Count one call in."""
        self.in_flight += 1
        return Guard(self, self._breaker.enter())

    def heard(self, seconds: float) -> None:
        """Learn the time to first byte of one call."""
        self.latency.add(seconds, self._clock())

    def passed(self) -> None:
        """The trial call went well."""
        self._breaker.leave(Outcome(ok=True, at=self._clock(), trial=True))

    def settle(self, guard: Guard, blame: Blame | None) -> None:
        """Count one call out, and tell the breaker what the call says about this backend."""
        self.in_flight -= 1
        if self.rest.managed:
            self.rest.left(self.in_flight)
        if blame in (None, Blame.BACKEND, Blame.CLIENT):
            self._breaker.leave(Outcome(blame is not Blame.BACKEND, self._clock(), guard.trial))
        else:
            self._breaker.forget(guard.trial)
