"""What a key may still use, as one document that every process changes in turn.

Money and requests are handed out in *leases*: a process holds a part of what is left, spends it
without asking, and tells later. So all processes together never hold more than the limit, and what
a process that dies has spent and not told is at most its lease. Tokens are counted when they are
used, and may be overdrawn by the answers then under way.

    {"usd": 1.25,                              spent and told
     "leases": {MEMBER: [0.01, 4711.0, 17]},   USD held, until when, and the last ask's number
     "granted": {MEMBER: 7},                   requests, by the last ask
     "requests": [59.0, 4650.0, 60.0],         a bucket: its level, when that was, and its size
     "tokens": [-120.0, 4650.0, 1000.0]}

Pure functions over plain JSON; time is the store's. Asking twice under one number changes nothing
twice: an answer that was lost on its way is simply asked for again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.limits import refilled
from app.state.store import Change, Json

EXPIRES = 60.0
"""Seconds after which a lease that nobody renews is free again: its process is gone. What it had
spent of it and not told is lost, at most one lease."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key may use: USD in all, requests and tokens per minute; None is no limit."""

    usd: float | None = None
    requests: int | None = None
    tokens: int | None = None

    def __bool__(self) -> bool:
        """Whether there is any."""
        return (self.usd, self.requests, self.tokens) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Ask:
    """What one process tells and wants. `number` grows with each new ask of this `member`.

    `spent` USD and `tokens` have been used since the last ask, and `unused` requests are given
    back; it wants to hold `lease` USD from now on, and to make `requests` more. `known` USD had
    been spent by all when it last heard: a store that has lost the document learns it again.
    """

    member: str
    number: int
    limits: Limits
    known: float = 0.0
    spent: float = 0.0
    tokens: float = 0.0
    unused: int = 0
    lease: float = 0.0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """What a process may use after an ask, and what is left for all.

    `lease` USD are its own; `free` are nobody's yet, `held` are others'. `requests` were granted by
    this ask; `level` is that of the bucket, in requests, and `tokens` that of the other one.
    """

    spent: float
    lease: float
    free: float
    held: float
    requests: int
    level: float
    tokens: float


def asking(ask: Ask) -> Change:
    """The change of a key's document that answers `ask`."""

    def change(document: Json, now: float) -> Json:
        return _changed(document or {}, ask, now)

    return change


def left(document: Mapping[str, Any], ask: Ask) -> Left:
    """What the changed document answers."""
    leases = {name: lease[0] for name, lease in document["leases"].items()}
    own = leases.pop(ask.member, 0.0)
    held = sum(leases.values())
    free = 0.0 if ask.limits.usd is None else ask.limits.usd - document["usd"] - own - held
    return Left(
        spent=document["usd"],
        lease=own,
        free=max(free, 0.0),
        held=held,
        requests=document["granted"].get(ask.member, 0),
        level=document["requests"][0],
        tokens=document["tokens"][0],
    )


def _changed(document: Mapping[str, Any], ask: Ask, now: float) -> Json:
    limits = ask.limits
    leases = {
        name: lease
        for name, lease in document.get("leases", {}).items()
        if now <= lease[1] <= now + EXPIRES
    }
    granted = {n: count for n, count in document.get("granted", {}).items() if n in leases}
    usd = max(document.get("usd", 0.0), ask.known)
    requests = refilled(document.get("requests"), limits.requests, now)
    tokens = refilled(document.get("tokens"), limits.tokens, now)
    told = leases.get(ask.member, (0.0, 0.0, 0))
    if ask.number > told[2]:
        usd += ask.spent
        tokens -= ask.tokens
        requests += ask.unused
        granted[ask.member] = min(ask.requests, max(int(requests), 0))
        requests -= granted[ask.member]
        others = sum(lease[0] for name, lease in leases.items() if name != ask.member)
        free = max((limits.usd or 0.0) - usd - others, 0.0)
        leases[ask.member] = [min(ask.lease, free), now + EXPIRES, ask.number]
    full = float(limits.requests or 0), float(limits.tokens or 0)
    return {
        "usd": usd,
        "leases": leases,
        "granted": granted,
        "requests": [min(requests, full[0]), now, full[0]],
        "tokens": [min(tokens, full[1]), now, full[1]],
    }
