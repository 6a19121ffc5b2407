"""Admission: one request's places in the pools that it calls.

Where a model has a `queue`, a call needs a place before a backend is picked for it, so that
whoever waits gets the backend that is best when the turn comes. An answer counts once in a pool,
however many calls of it are under way there. What has begun is not stopped: an answer of which the
client has seen something neither waits nor is refused, and keeps its place in the pool that it
began in until it ends, so that those who write in turns cannot become more than there are places.
One that has made calls, but shown nothing yet, waits before all new ones and is never refused at
once.

It decides who waits where; `router.line` is the line, `router.attempts` makes the calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from router.alarms import Alarms
from router.faults import Fault
from router.ledger import Ledger
from router.line import HIGH, LOW, UNDER_WAY, Class, Place
from router.observe import Queued
from router.pool import Pool
from router.refusals import shed
from router.steps import Open


@dataclass(slots=True)
class Admission:
    """The places of the request that `ledger` is about. `share`: this process's, of all places."""

    alarms: Alarms
    ledger: Ledger
    share: float
    _places: dict[str, Place] = field(default_factory=dict)
    _written: bool = False

    async def place(self, pool: Pool, step: Open, until: float) -> Place | Fault | None:
        """A place for a call of `step` that may begin to be answered until then (monotonic).

        None if there is no backend that it would be worth waiting for.
        """
        held = self._places.get(pool.name)
        if held and held.taken:
            held.share()
            return held
        place = pool.line.enter(pool, self.share)
        if place is None and self._written:
            place = pool.line.take()
        if place is None:
            return await self._wait(pool, step, until)
        return self._got(pool, place)

    def written(self, place: Place | None) -> None:
        """The client gets to see what a policy writes in the name of a call with this place."""
        if self._written:
            return
        self._written = True
        if place and self._places.get(self._home) is place:
            place.keep()

    def close(self) -> None:
        """The request is over; so are its calls."""
        for place in self._places.values():
            place.give_up()

    @property
    def _home(self) -> str:
        """Where the answer began: its first call's pool."""
        return self.ledger.tallies[0].model if self.ledger.tallies else ""

    def _got(self, pool: Pool, place: Place) -> Place:
        self._places[pool.name] = place
        if self._written and pool.name == self._home:
            place.keep()
        return place

    async def _wait(self, pool: Pool, step: Open, until: float) -> Place | Fault | None:
        if not pool.candidates(step.avoid):
            pool.line.admit()  # nor is there anything to wait for for the others
            return None
        low = step.request.low
        at = UNDER_WAY if self.ledger.tallies else LOW if low else HIGH
        if not step.waits:
            return self._shed(Queued(pool.name, low, 0.0, "full"), pool, at)
        began = monotonic()
        patience = min(pool.bounds(self.share).longest, until - began)
        waiting = pool.line.stand(at, patience)
        if isinstance(waiting, str):
            return self._shed(Queued(pool.name, low, 0.0, waiting), pool, at)
        alarm = self.alarms.after(patience, waiting.overdue)
        try:
            place = await waiting.come()
        except BaseException:
            waiting.leave()
            raise
        finally:
            alarm.cancel()
            waited = monotonic() - began
            self.ledger.waited += waited
        if waiting.late:
            return self._shed(Queued(pool.name, low, waited, "timeout"), pool, at)
        self.ledger.queued.append(Queued(pool.name, low, waited))
        return place and self._got(pool, place)

    def _shed(self, queued: Queued, pool: Pool, at: Class) -> Fault:
        self.ledger.queued.append(queued)
        return shed(queued, pool.line.waiting(), pool.line.retry_after(at))
