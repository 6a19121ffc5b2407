"""Which servers of one host must wake, and which must make room: a decision without a clock.

Pure functions over a picture of the host. The rules:

    memory     what is awake, waking or falling asleep counts in full, what sleeps by what it keeps;
               nothing is woken that would not fit *now*
    order      who has waited longest is served first; a later one may go ahead only where that
               delays nobody before it
    residence  a server that was woken stays awake for its time before it must make room
    calls      a server with calls in flight is never put to sleep; it gets no new ones (`drain`)
               until it has none

So whoever waits is served: those before it need a residence each, and calls end. Nothing sleeps
unless another needs its memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

State: TypeAlias = Literal["unknown", "awake", "falling asleep", "asleep", "waking"]
"""What a server does, as far as the gateway has heard. Calls are sent to one that is awake."""

NEVER = float("inf")
TINY = 1e-9
"""GiB that rounding may be off."""


@dataclass(frozen=True, slots=True)
class Resident:
    """One server of a host at one moment; times in seconds of any one clock, memory in GiB.

    `since` is when it woke, `used` when it last had a call, `wanted` since when a call has waited
    for it (None: none does). `sleeps` is False for one that cannot, or may not, be put to sleep.
    """

    name: str
    model: str
    state: State
    memory: float
    kept: float = 0.0
    sleeps: bool = True
    since: float = -NEVER
    residence: float = 0.0
    in_flight: int = 0
    used: float = -NEVER
    wanted: float | None = None

    @property
    def holds(self) -> float:
        """Memory that it must be thought to hold now."""
        return self.kept if self.state == "asleep" else self.memory

    @property
    def frees(self) -> float:
        """Memory that its sleep sets free, and that its waking takes."""
        return self.memory - self.kept

    @property
    def until(self) -> float:
        """When it may first be put to sleep."""
        return self.since + self.residence


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `drain` names those that must get no new calls, since they must make room.

    `free_at` says of each server that gets no calls when there could be memory for it (`NEVER`:
    not while things are as they are). `again` is when to plan anew if nothing else happens.
    """

    wake: tuple[str, ...] = ()
    sleep: tuple[str, ...] = ()
    drain: frozenset[str] = frozenset()
    free_at: dict[str, float] = field(default_factory=dict)
    again: float | None = None


@dataclass(slots=True)
class _Draft:
    """A plan in the making: `used` is memory held now, `coming` once all that was begun or decided
    is done; `spare` are those awake that nobody has claimed yet.
    """

    budget: float
    now: float
    used: float
    coming: float
    spare: dict[str, Resident]
    wake: list[str] = field(default_factory=list)
    leave: dict[str, Resident] = field(default_factory=dict)
    free_at: dict[str, float] = field(default_factory=dict)
    again: float = NEVER

    def room(self, memory: float, but: str = "") -> list[Resident] | None:
        """Who must leave for this much to fit, none of the model `but`; None if that cannot be."""
        others = [each for each in self.spare.values() if each.model != but]
        return leaving(self.coming + memory - self.budget, others, self.now)

    def start(self, asleep: Resident, chosen: Iterable[Resident]) -> None:
        """`asleep` is to wake once these have left."""
        begins = self.now
        for each in chosen:
            begins = max(begins, each.until)
            self.coming -= each.frees
            del self.spare[each.name]
        self.coming += asleep.frees
        self.free_at[asleep.name] = begins
        if begins > self.now:
            self.again = min(self.again, begins)
            return
        self.leave.update({each.name: each for each in chosen})
        if not chosen and self.used + asleep.frees <= self.budget + TINY:
            self.wake.append(asleep.name)
            self.used += asleep.frees


def leaving(excess: float, awake: Iterable[Resident], now: float) -> list[Resident] | None:
    """As few of `awake` as free `excess`: those whose residence is over first, of these the idle
    ones, of these the ones that were not used for longest. None if all together do not suffice.
    """
    chosen: list[Resident] = []
    missing = excess
    for each in sorted(awake, key=lambda r: (max(r.until, now), r.in_flight > 0, r.used, r.name)):
        if missing <= TINY:
            break
        if each.frees > 0:
            chosen.append(each)
            missing -= each.frees
    if missing > TINY:
        return None
    for each in tuple(chosen):
        if missing + each.frees <= TINY:  # a larger one that came later frees enough without it
            chosen.remove(each)
            missing += each.frees
    return chosen


def plan(residents: Sequence[Resident], budget: float, now: float) -> Plan:
    """What must happen on a host of these servers, with this much memory for them."""
    draft = _Draft(
        budget=budget,
        now=now,
        used=sum(each.holds for each in residents),
        coming=sum(
            each.kept if each.state == "falling asleep" else each.holds for each in residents
        ),
        spare={each.name: each for each in residents if each.state == "awake" and each.sleeps},
    )
    _return_to_budget(draft, residents)
    asleep = [each for each in residents if each.state == "asleep"]
    waiting = [each for each in asleep if each.wanted is not None]
    for each in sorted(waiting, key=lambda r: (r.wanted, r.name)):
        chosen = draft.room(each.frees, each.model)
        if chosen is not None:
            draft.start(each, chosen)
        elif possible(each, residents, budget):
            break  # it is somebody's turn who is not awake yet, and all others come later
    return _finished(draft, residents)


def possible(asleep: Resident, residents: Iterable[Resident], budget: float) -> bool:
    """Whether it could be woken if all others slept that may sleep for its sake."""
    rest = (
        each.kept
        if each.state == "asleep" or (each.sleeps and each.model != asleep.model)
        else each.memory
        for each in residents
        if each.name != asleep.name
    )
    return sum(rest) + asleep.memory <= budget + TINY


def _return_to_budget(draft: _Draft, residents: Iterable[Resident]) -> None:
    """More may be awake than should, where servers were started or woken by others. Nobody leaves
    for one of which nothing is known.
    """
    unknown = sum(each.frees for each in residents if each.state == "unknown")
    excess = draft.coming - unknown - draft.budget
    for each in leaving(excess, draft.spare.values(), draft.now) or ():
        if each.until > draft.now:
            draft.again = min(draft.again, each.until)
            continue
        draft.coming -= each.frees
        draft.leave[each.name] = draft.spare.pop(each.name)


def _finished(draft: _Draft, residents: Sequence[Resident]) -> Plan:
    """The plan, with a forecast for those that are not in it."""
    later = draft.now + max((each.residence for each in residents), default=0.0)
    for each in residents:
        if each.state == "asleep" and each.name not in draft.free_at:
            chosen = draft.room(each.frees, each.model)
            if chosen is not None:
                draft.free_at[each.name] = max([draft.now, *(v.until for v in chosen)])
            else:
                can = possible(each, residents, draft.budget)
                draft.free_at[each.name] = later if can else NEVER
        elif each.state == "falling asleep" or each.name in draft.leave:
            draft.free_at[each.name] = later
    return Plan(
        wake=tuple(draft.wake),
        sleep=tuple(name for name, each in draft.leave.items() if not each.in_flight),
        drain=frozenset(draft.leave),
        free_at=draft.free_at,
        again=None if draft.again == NEVER else draft.again,
    )
