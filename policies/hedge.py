"""Hedge: if the first backend is slow to speak, ask a second one, and take whoever speaks first.

Cuts the tail of the time to first token for the price of some work done twice (Dean and Barroso,
"The Tail at Scale", 2013). The loser is cancelled the moment the winner's first event is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from router.fleet import Fleet
from router.phrases import Phrase, close, next_event, note, open_attempt, relay
from router.steps import (
    Attempt,
    Ended,
    Failed,
    ModelName,
    Request,
    Steps,
    TimedOut,
)


@dataclass(frozen=True, slots=True)
class Hedge:
    """Race a second backend after a delay."""

    reasons: ClassVar[tuple[str, ...]] = ("first", "hedged", "first_failed")

    model: ModelName
    """The model that is asked first."""
    delay: float
    """Seconds to wait for its first event; its 95th percentile means 5 % of requests hedged."""
    backup: ModelName | None = None
    """The model that is asked second; by default another backend of the first one's pool."""

    def __post_init__(self) -> None:
        if not self.delay > 0:
            raise ValueError("delay: must be above 0 seconds")

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Relay the first attempt that speaks."""
        first = yield from open_attempt(self.model, request)
        event = yield from next_event(first, timeout=self.delay)
        match event:
            case TimedOut():
                second = yield from self._another(first, request, waits=False)
                return (yield from _race(first, second))
            case Failed() as failed:
                if not failed.fault.elsewhere:
                    return failed
                yield from note("first_failed", failed.fault.summary)
                waits = bool(first.backend or self.backup)
                second = yield from self._another(first, request, waits=waits)
                ended = yield from relay(second)
                return failed if isinstance(ended, Failed) and not second.backend else ended
            case _:
                yield from note("first")
                return (yield from relay(first))

    def _another(self, first: Attempt, request: Request, *, waits: bool) -> Phrase[Attempt]:
        avoid = frozenset({first.backend})
        model = self.backup or self.model
        return (yield from open_attempt(model, request, avoid=avoid, waits=waits))


def _race(first: Attempt, second: Attempt) -> Steps:
    """Relay whichever speaks; one that fails leaves the field to the other."""
    racing = [attempt for attempt in (first, second) if attempt.backend]
    failed: Ended | None = None
    while racing:
        event = yield from next_event(*racing)
        if isinstance(event, Failed):
            failed = failed or event
            racing.remove(event.attempt)
            continue
        winner = first if isinstance(event, TimedOut) else event.attempt
        yield from close(*(loser for loser in racing if loser != winner))
        yield from note("first" if winner == first else "hedged", winner.backend)
        return (yield from relay(winner))
    assert failed is not None
    return failed
