"""Faults: everything that can go wrong with a call, named by whose fault it is.

A fault is a value, not an exception: upstream code returns it, policies look at it, the engine
counts it, and `router.errors` alone turns it into a body. What may be tried elsewhere and what
counts against a backend's breaker follow from the kind and from nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Blame(StrEnum):
    """Whose fault it is; also the closed set of the metrics label `fault`."""

    CLIENT = "client"
    """The request itself is wrong (a backend's 4xx, a bad body): no other backend would help."""
    BUSY = "busy"
    """The backend is well but full (503 from admission control, 429): spill over, do not punish."""
    BACKEND = "backend"
    """The backend is dead, broken or lying: try another one, count it against this one."""
    GATEWAY = "gateway"
    """Tandem's own limits or mistakes: the deadline passed, a policy broke."""
    GONE = "gone"
    """Nobody wanted the answer any more: the client left, or a policy dropped the attempt."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure, with all that a client or an operator needs to act on it.

    `status` is the HTTP status to answer with if nothing was sent yet. `body` is a backend's own
    error body, passed on untouched where the blame is the client's. `retry_after` is in seconds.
    `other_model` says that another model may well serve what this one cannot; `quotes` that the
    message holds a backend's own words, which may quote the prompt.
    """

    blame: Blame
    message: str
    status: int = 502
    code: str | None = None
    param: str | None = None
    body: bytes | None = None
    retry_after: float | None = None
    other_model: bool = False
    quotes: bool = False

    @property
    def summary(self) -> str:
        """The message as it may be logged and told to other listeners: no backend's words in it."""
        return f"{self.status} {self.code or ''}".strip() if self.quotes else self.message

    @property
    def elsewhere(self) -> bool:
        """Whether the same request may succeed on another backend or model."""
        return self.other_model or self.blame in (Blame.BUSY, Blame.BACKEND)


class FaultError(Exception):
    """Carries a `Fault` up to the one place that turns it into an answer."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault
