"""Direct: one model answers. What a model's own name stands for when a client asks for it.

The pool picks the backend; if that one is dead or full, the others get their turn before the first
byte, never after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from router.fleet import Fleet
from router.phrases import serve
from router.steps import ModelName, Request, Steps


@dataclass(frozen=True, slots=True)
class Direct:
    """Send every request to one model."""

    reasons: ClassVar[tuple[str, ...]] = ()

    model: ModelName
    """The model that answers."""

    def route(self, request: Request, fleet: Fleet) -> Steps:
        """Relay the model's answer."""
        return serve(self.model, request)
