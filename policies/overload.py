"""Overload: while a model's line is too long, a cheaper target answers new requests.

Shedding alone keeps a model at its best under any load, and tells the rest to come back. Where an
answer by a smaller model is worth more than none, this turns the rest into such answers: those that
would have to wait too long, and those that found no room after all. As soon as the line is short
again the target answers; nothing is switched, each request looks for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeGuard

from router.fleet import Fleet
from router.phrases import note, route
from router.steps import Blame, Ended, Failed, ModelName, Request, Steps, TargetName


@dataclass(frozen=True, slots=True)
class Overload:
    """Send requests to a cheaper target while the first one is overloaded."""

    reasons: ClassVar[tuple[str, ...]] = ("overloaded", "shed")

    target: TargetName
    """Who answers as a rule."""
    cheaper: TargetName
    """Who answers under overload."""
    wait: float = 2.0
    """Seconds that a request may have to wait for a place; from more on, `cheaper` answers."""
    watch: tuple[ModelName, ...] = ()
    """The models whose lines count; by default the target, where that is a model."""

    def __post_init__(self) -> None:
        if not self.wait >= 0:
            raise ValueError("wait: at least 0 seconds")
        if self.target == self.cheaper:
            raise ValueError("cheaper: must be another target than target")

    def misfit(self, fleet: Fleet) -> str | None:
        """A policy does not say which models it asks."""
        if self.watch or self.target in fleet.models:
            return None
        return f'watch: name the models whose lines say that "{self.target}" is overloaded'

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Hand the request to the target, or to the cheaper one."""
        for name in self.watch or (self.target,):
            view = fleet.models.get(name)
            if view is None:
                continue
            wait = view.queue_low if request.low else view.queue
            if wait > self.wait:
                expected = "is full" if wait == float("inf") else f"would take {wait:.1f} s"
                yield from note("overloaded", f"a place with {name} {expected}")
                return (yield from route(self.cheaper, request))
        ended = yield from route(self.target, request)
        if not _shed(ended):
            return ended
        yield from note("shed", f"by {self.target}: {ended.fault.summary}")
        return (yield from route(self.cheaper, request))


def _shed(ended: Ended) -> TypeGuard[Failed]:
    return isinstance(ended, Failed) and not ended.sent and ended.fault.blame is Blame.BUSY
