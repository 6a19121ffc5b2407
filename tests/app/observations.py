"""Observations for tests: a finished request, whole, to be changed where a test cares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from router.cost import delivered
from router.faults import Blame
from router.observe import AttemptEnded, RequestEnded
from router.steps import Surface, Usage

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
