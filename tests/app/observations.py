"""Observations for tests: a finished request, whole, to be changed where a test cares; and what is
looked at of backends when somebody scrapes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from app.metrics import Metrics
from router.cost import delivered
from router.faults import Blame
from router.idealised import Ideal
from router.observe import (
    AttemptEnded,
    BackendChanged,
    Kept,
    Queued,
    Refused,
    RequestEnded,
    RevisionActivated,
    Shadowed,
    ShadowFailed,
    SleepChanged,
)
from router.steps import Surface, Usage

IDEAL = Ideal(0.5, 1.0, 0.01)
USAGE = Usage(prompt=100, completion=50, cached=64)


def attempt(
    model: str = "large",
    usage: Usage | None = USAGE,
    *,
    blame: Blame | None = None,
    answer: bool = True,
    cost: float = 0.0,
    estimated: bool = False,
) -> AttemptEnded:
    """One call to the only backend of `model`."""
    return AttemptEnded(
        model=model,
        backend=f"{model}.test:8000",
        blame=blame,
        seconds=1.0,
        first_byte=0.1,
        usage=usage,
        answer=answer,
        cost=cost,
        estimated=estimated,
    )


ENDED = RequestEnded(
    id="req-1",
    surface=Surface.CHAT,
    policy="auto",
    revision=3,
    key="alice",
    stream=False,
    status=200,
    blame=None,
    message="",
    reason="",
    detail="",
    attempts=(attempt(),),
    first_byte=0.25,
    seconds=1.5,
    upstream=1.4995,
    gaps=(),
    cost=0.0,
    baseline=0.0,
)


def request(**changes: Any) -> RequestEnded:
    """A plain answer by the large model, with these fields changed."""
    ended = replace(ENDED, **changes)
    return replace(ended, delivered=delivered(ended.attempts))


def everything(metrics: Metrics) -> None:
    """Observe what makes every metric have a sample."""
    metrics(request(attempts=(attempt("small"), attempt("large"))))
    metrics(request(stream=True, gaps=(0.1,), reason="first", blame=Blame.BACKEND))
    metrics(request(stream=True, attempts=(attempt(usage=None), attempt(estimated=True))))
    metrics(request(attempts=(replace(attempt(), ideal=IDEAL),), ideal=IDEAL))
    metrics(request(queued=(Queued("large", False, 0.5), Queued("large", True, 0.0, "full"))))
    metrics(Refused("chat/completions", 400, Blame.CLIENT, None, None))
    metrics(BackendChanged("large", "l.test:1", "open", ""))
    metrics(SleepChanged("large", "l.test:1", "woken", 2.5))
    metrics(RevisionActivated(1, "aaa"))
    metrics(Shadowed("req-1", "auto", "next", "small", "large", 1, 2, 0.5, 0.7))
    metrics(Shadowed("req-1", "auto", "next", "small", "cascade"))
    metrics(ShadowFailed("req-1", "auto", "next", "error"))
    metrics(Kept("decision", "logged", 2))
    metrics(Kept("feedback", "logged"))
    metrics.lag.observe((), 0.001)


@dataclass
class Backend:
    """A backend as a scrape sees it."""

    name: str
    in_flight: int
    state: str
    awake: bool = True


@dataclass
class Pool:
    """A model's pool as a scrape sees it."""

    name: str
    backends: tuple[Backend, ...]
    waiting: int = 0

    def queued(self, *, low: bool) -> int:
        """Two of high priority wait, one of low."""
        return 1 if low else 2


@dataclass(frozen=True, slots=True)
class Members:
    """What a process knows of all."""

    kind: str = "redis"
    trouble: str = ""
    alive: int = 2
    lagging: int = 1


MEMBERS = Members()
"""Two processes, one of them behind, with a store."""
POOLS = (
    Pool("small", (Backend("s.test:1", 3, "healthy"),)),
    Pool("large", (Backend("l.test:1", 0, "open"), Backend("l.test:2", 1, "probing"))),
)
