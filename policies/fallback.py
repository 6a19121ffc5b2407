"""Fallback: an ordered list of models or policies; the next answers if one fails before a byte.

Once a byte has reached the client the answer is never begun again elsewhere: it ends with an error
that says so. A client's own mistake (a 4xx) is answered at once, since no other model would like
the request better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeGuard

from router.fleet import Fleet
from router.phrases import note, route
from router.steps import Ended, Failed, Request, Steps, TargetName


@dataclass(frozen=True, slots=True)
class Fallback:
    """Try the targets in order."""

    reasons: ClassVar[tuple[str, ...]] = ("fell_back",)

    targets: tuple[TargetName, ...]
    """Models or policies, best first; at least one."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("targets: name at least one model or policy")

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Relay the first answer that begins; each target may use its part of the time left."""
        last = len(self.targets) - 1
        for place, target in enumerate(self.targets):
            ended = yield from route(target, request, share=1 / (last - place + 1))
            if place == last or not _worth_another(ended):
                return ended
            yield from note("fell_back", f"from {target}: {ended.fault.summary}")
        raise AssertionError("a fallback has at least one target")


def _worth_another(ended: Ended) -> TypeGuard[Failed]:
    return isinstance(ended, Failed) and not ended.sent and ended.fault.elsewhere
