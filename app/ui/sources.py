"""What the pages are told, and by whom: everything that they know comes through here.

In one process each source is that process's own. Where several processes serve one port, this is
the place to join them: `History` takes its numbers from one function, `decisions` is another, and
both may wait. The rest of the room does not care how many answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client.core import Metric

from app.gateway import Gateway
from app.metrics import Metrics
from app.state.member import Member
from app.ui.history import Families, History
from app.ui.recent import Decision
from router.revisions import Revisions

__all__ = ["Decided", "Sources", "families_of"]

Decided: TypeAlias = Callable[[], Awaitable[Sequence[Decision]]]
"""Gives the last decisions, newest first."""


@dataclass(frozen=True, slots=True)
class Sources:
    """All of them. `gateway` is what the playground asks: the clients' own application. `member`
    knows the other processes.
    """

    revisions: Revisions
    gateway: Gateway
    history: History
    decisions: Decided
    member: Member


def families_of(metrics: Metrics) -> Families:
    """The families that this process counts."""

    async def families() -> Iterable[Metric]:
        return metrics.collect()

    return families
