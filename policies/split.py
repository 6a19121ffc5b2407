"""Split: share traffic between models or policies by weight: canary releases and A/B tests.

A conversation stays where it began: requests with the same session key get the same target as long
as the weights stay, because the target follows from a hash of the key and of nothing else. Raising
one weight moves only the sessions that the new share needs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from router.fleet import Fleet
from router.phrases import note, route
from router.steps import Request, Steps, TargetName


@dataclass(frozen=True, slots=True)
class Split:
    """Choose a target with probability proportional to its weight."""

    reasons: ClassVar[tuple[str, ...]] = ("sticky", "drawn")

    weights: Mapping[TargetName, float]
    """Share of the traffic by target; the sum need not be 1 or 100."""
    sticky: bool = True
    """Whether requests of one session stay together; a request without a key is drawn anew."""
    salt: str = ""
    """Changes which sessions go where, so that two experiments do not pick the same users."""

    def __post_init__(self) -> None:
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("weights: a weight cannot be negative")
        if not sum(self.weights.values()) > 0:
            raise ValueError("weights: at least one must be above 0")

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Hand the request to the chosen target."""
        if self.sticky and request.session:
            reason, draw = "sticky", self._place(request.session)
        else:
            reason, draw = "drawn", request.draw
        target = self._at(draw)
        yield from note(reason, target)
        return (yield from route(target, request))

    def chances(self, request: Request) -> Mapping[str, float]:
        """Those of the weights, over all sessions: which session goes where is chance, too."""
        whole = math.fsum(self.weights.values())
        return {name: weight / whole for name, weight in self.weights.items() if weight > 0}

    def _place(self, session: str) -> float:
        """A number in [0, 1) that depends on the session and the salt alone, on any machine."""
        digest = hashlib.blake2b(f"{self.salt}\0{session}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64

    def _at(self, draw: float) -> str:
        """The target whose share of [0, 1) holds `draw`; shares lie in the order of the config."""
        names = [name for name, weight in self.weights.items() if weight > 0]
        whole = math.fsum(self.weights.values())
        reached = 0.0
        for name in names:
            reached += self.weights[name] / whole
            if draw < reached:
                return name
        return names[-1]
