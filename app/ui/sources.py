"""What the pages are told, and by whom: everything that they know comes through here.

The numbers are those of all processes of this machine (`app.together`), and the decisions those of
all that act as one (`app.ui.recent`). The rest of the room does not care how many answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from app.gateway import Gateway
from app.state.member import Member
from app.ui.history import History
from app.ui.recent import Decision
from router.revisions import Revisions

__all__ = ["Decided", "Sources"]

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
