"""The attempts of one request: opened, waited for, broken off, closed.

The live half of what a policy holds by its `Attempt`s. `router.engine` decides which step is due;
here a step about attempts meets pools, calls and the race between several of them. Every call that
was opened is closed, by its end, by `drop` or by `close_all`, and with it goes its guard.

It knows no client and no policy.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic

from router.admission import Admission
from router.alarms import Alarms
from router.budget import RetryBudget
from router.call import Call, Limits, limits
from router.computing import Computing
from router.faults import Blame, Fault, FaultError
from router.ledger import Ledger, Tally
from router.line import Place
from router.outgoing import hidden_by, outgoing
from router.pool import Pool, seen_by
from router.refusals import PolicyError, no_room, not_served, nowhere, too_late
from router.runtime import Runtime
from router.steps import Attempt, Event, Failed, Next, Open, TimedOut, Usage
from router.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Shared:
    """What the requests of a process share: connections, retries, alarms, chance, the time, and the
    threads for long work.
    """

    upstream: Upstream
    budget: RetryBudget
    alarms: Alarms
    rng: random.Random
    wall: Callable[[], float]
    computing: Computing = field(default_factory=Computing)
    share: Callable[[], float] = lambda: 1.0
    """This process's share of all limits that hold for a model's servers as a whole."""


@dataclass(slots=True)
class Live:
    """A call under way; the backends tried so far, itself included; what of its answer the client
    must not see; and its wait, if someone races it.
    """

    call: Call
    avoid: frozenset[str]
    hidden: frozenset[str]
    waiting: asyncio.Task[Event] | None = None


@dataclass(slots=True)
class Attempts:
    """All attempts of the request that `ledger` is about."""

    shared: Shared
    runtime: Runtime
    ledger: Ledger
    _live: dict[int, Live] = field(default_factory=dict)
    _unplaced: dict[int, Failed] = field(default_factory=dict)
    _admission: Admission | None = None

    def pool(self, model: str) -> Pool:
        """The pool of a model; a policy that names another has a bug."""
        if pool := self.runtime.pools.get(model):
            return pool
        raise PolicyError(f'there is no model named "{model}" to open')

    async def open(self, step: Open, until: float, path: str = "") -> Attempt:
        """Pick a backend and prepare the call, whose answer may begin until then (monotonic).

        `path` is where the call goes, if not where its surface says.
        """
        pool = self.pool(step.model)
        if not path and not pool.serves(step.request.surface):
            return self._unplace(step, not_served(step))
        if monotonic() >= until:
            return self._unplace(step, too_late())
        if pool.settings.queue is None:
            return self._open(pool, step, until, None, path)
        place = await self._admitted().place(pool, step, until)
        if isinstance(place, Fault):
            return self._unplace(step, place)
        attempt = self._open(pool, step, until, place, path)
        if place and attempt.number < 0:
            place.return_unused()
        return attempt

    def _admitted(self) -> Admission:
        if self._admission is None:
            shared = self.shared
            self._admission = Admission(shared.alarms, self.ledger, shared.share())
        return self._admission

    def _open(
        self, pool: Pool, step: Open, until: float, place: Place | None, path: str
    ) -> Attempt:
        prompt = seen_by(step.request.salt, step.request.raw or self.ledger.request.raw)
        backend = pool.pick(prompt, step.avoid, self.shared.rng, step.prefer)
        if backend is None:
            return self._unplace(step, nowhere(pool, step.avoid))
        if not backend.awake and (fault := no_room(pool, backend)):
            return self._unplace(step, fault)
        number = len(self.ledger.tallies)
        attempt = Attempt(number, step.model, backend.name)
        trace = self.ledger.trace
        span = trace.child(number, self.shared.rng) if trace else 0
        sending = outgoing(step, pool, trace.headers(span) if trace else None, path)
        tally = Tally(step.model, backend.name, monotonic(), pool.price, len(sending.body))
        tally.surface, tally.span = sending.surface, span
        tally.prompt, tally.choices = sending.prompt, sending.choices
        tally.idealised = pool.idealised
        tally.held = step.held if backend.name == step.prefer else 0
        if self.ledger.prompt is None:
            self.ledger.prompt = sending.prompt
        self.ledger.tallies.append(tally)
        silence = self._limits(step, pool, until)
        call = Call(attempt, backend, sending, silence, tally, self.shared.alarms)
        call.place = place
        self._live[number] = Live(call, step.avoid | {backend.name}, hidden_by(step))
        return attempt

    def _unplace(self, step: Open, fault: Fault) -> Attempt:
        """An attempt that found no backend: what is wrong is heard with its first event."""
        attempt = Attempt(-1 - len(self._unplaced), step.model, "")
        self._unplaced[attempt.number] = Failed(attempt, fault)
        return attempt

    def _limits(self, step: Open, pool: Pool, until: float) -> Limits:
        """An attempt may be silent for its share of what is left: others want to try, too."""
        settings = self.runtime.config.limits
        others = len(pool.candidates(step.avoid))
        left = max(until - monotonic(), 0.0)
        share = step.share * left / max(others, 1)
        first = min(share, settings.first_token) if step.request.stream else share
        return limits(settings, first, step.share * left)

    def known(self, attempt: Attempt) -> Live | Failed:
        """The call behind an attempt, or why there is none."""
        if failed := self._unplaced.get(attempt.number):
            return failed
        if live := self._live.get(attempt.number):
            return live
        raise PolicyError(f"attempt {attempt.number} is not open")

    def used(self, attempt: Attempt) -> Usage | None:
        """What the backend has counted for an attempt; None where it has not."""
        return self.ledger.tallies[attempt.number].usage if attempt.number >= 0 else None

    # --------------------------------------------------------------------------- waiting

    async def next(self, step: Next) -> Event:
        """The first event of any of these attempts."""
        if not step.attempts:
            raise PolicyError("there is no attempt to wait for")
        known = [self.known(attempt) for attempt in step.attempts]
        for live in known:
            if isinstance(live, Failed):
                return live
        lives = [live for live in known if isinstance(live, Live)]
        if len(lives) == 1 and step.timeout is None and lives[0].waiting is None:
            return await self._hear(lives[0])
        return await self._race(lives, step.timeout)

    async def _hear(self, live: Live) -> Event:
        before = monotonic()
        try:
            return await live.call.event(self.shared.upstream)
        except FaultError as error:
            return self.broke(live, error.fault)
        finally:
            self.ledger.waited += monotonic() - before

    async def _race(self, lives: Iterable[Live], patience: float | None) -> Event:
        before = monotonic()
        tasks: dict[asyncio.Task[Event], Live] = {}
        for live in lives:
            if live.waiting is None:
                live.waiting = asyncio.create_task(live.call.event(self.shared.upstream))
            tasks[live.waiting] = live
        done, _ = await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        self.ledger.waited += monotonic() - before
        for task, live in tasks.items():
            if task in done:
                live.waiting = None
                try:
                    return task.result()
                except FaultError as error:
                    return self.broke(live, error.fault)
        return TimedOut()

    # --------------------------------------------------------------------------- the end

    def broke(self, live: Live, fault: Fault) -> Failed:
        """The call failed: close it, and say whether its pool has another backend to try.

        What was relayed cannot be begun again elsewhere; what a policy emitted token by token can
        be continued there.
        """
        attempt, tally = live.call.attempt, live.call.tally
        sent = tally.answer and self.ledger.first_byte is not None
        del self._live[attempt.number]
        live.call.close(fault.blame)
        pool = self.runtime.pools[attempt.model]
        spare = (not sent or live.call.emitting) and self.spare(fault, pool, live.avoid)
        return Failed(attempt, fault, sent, spare)

    def spare(self, fault: Fault, pool: Pool, tried: frozenset[str]) -> bool:
        """Whether another backend of the pool may be tried after this; a retry may be paid for it.

        What only another model may serve is not asked of this one's other backends.
        """
        if fault.blame not in (Blame.BUSY, Blame.BACKEND) or not pool.candidates(tried):
            return False
        return fault.blame is Blame.BUSY or self.shared.budget.withdraw()

    async def close(self, attempt: Attempt) -> None:
        """The policy is done with it. A complete answer leaves its connection for the next call."""
        live = self._live.get(attempt.number)
        if live and live.call.complete:
            await live.call.finish()
        self.drop(attempt.number, None)

    async def finish(self) -> None:
        """Let those that are complete keep their connections."""
        for live in self._live.values():
            await live.call.finish()

    def drop(self, number: int, blame: Blame | None) -> None:
        """Close a call that has not failed; `blame` says who ended it early, if it is early."""
        if live := self._live.pop(number, None):
            if live.waiting and not live.waiting.cancel():
                live.waiting.exception()  # looked at, lest asyncio complain that nobody did
            live.call.close(None if live.call.complete else blame or Blame.GONE)

    def emits(self, attempt: Attempt, tokens: int) -> None:
        """A policy passes it on piece by piece, now so many tokens: also what it said before it
        was closed or broke.
        """
        live = self._live.get(attempt.number)
        if self._admission:
            self._admission.written(live.call.place if live else None)
        if live:
            live.call.emits(tokens)
            return
        known = 0 <= attempt.number < len(self.ledger.tallies)
        if not known or self.ledger.tallies[attempt.number].first_byte is None:
            raise PolicyError("nothing can be emitted from an attempt that has said nothing")
        self.ledger.tallies[attempt.number].emits(tokens)

    def close_all(self, blame: Blame | None) -> None:
        """Close every call that is still open."""
        for number in list(self._live):
            self.drop(number, blame)
        if self._admission:
            self._admission.close()
