"""The engine: drives one policy for one request. The only code that waits.

A policy yields steps; the engine performs each and sends back the reply. Policies that hand a
request on (`Route`) are stacked: the innermost speaks, and how it ended is the reply to the one
that handed on. Whatever happens (an end, an error, a client that left, a deadline), one `finally`
closes every call and so releases every guard.

It knows no HTTP server, no metric and no policy by name.
"""

from __future__ import annotations

import asyncio
import random
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Never

from router.alarms import Alarms
from router.answer import Answer
from router.budget import RetryBudget
from router.call import Call, Limits, limits
from router.compose import Composer
from router.dialect import OPENAI_STREAMS
from router.faults import Blame, Fault, FaultError
from router.fleet import Fleet
from router.ledger import Ledger, Tally
from router.outgoing import hidden_by, outgoing
from router.patience import Patience
from router.pool import Pool
from router.refusals import PolicyError, broke, not_served, nowhere, too_late
from router.runtime import Runtime
from router.steps import (
    Attempt,
    Close,
    Compute,
    Emit,
    Ended,
    Event,
    Failed,
    Finished,
    Next,
    Note,
    Open,
    Relay,
    Render,
    Route,
    Step,
    Steps,
    TimedOut,
)
from router.tokens import prompt_ids
from router.upstream import Upstream

LAST_WORD = 0.02
"""Share of the deadline kept back, so that a backend's silence is noticed as such before the
deadline ends everything without telling whose fault it was."""


@dataclass(slots=True)
class Frame:
    """One policy on the stack, and until when (monotonic time) its answer may begin."""

    name: str
    steps: Steps
    until: float


@dataclass(slots=True)
class Live:
    """A call under way; the backends tried so far, itself included; what of its answer the client
    must not see; and its wait, if someone races it.
    """

    call: Call
    avoid: frozenset[str]
    hidden: frozenset[str]
    waiting: asyncio.Task[Event] | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """What the requests of a process share: connections, retries, alarms, chance, the time."""

    upstream: Upstream
    budget: RetryBudget
    alarms: Alarms
    rng: random.Random
    wall: Callable[[], float]


@dataclass(slots=True)
class Drive:
    """One request being driven. Make one, `run` it once."""

    engine: Engine
    runtime: Runtime
    ledger: Ledger
    answer: Answer
    _frames: list[Frame] = field(default_factory=list)
    _live: dict[int, Live] = field(default_factory=dict)
    _unplaced: dict[int, Failed] = field(default_factory=dict)
    _fleet: Fleet | None = None
    _given: Ended | None = None

    async def run(self, until: float) -> Ended:
        """Answer the request; `until` is the time (`time.monotonic`) at which it must be over."""
        self.engine.budget.deposit()
        left = until - monotonic()
        deadline = Patience(self.engine.alarms, left)
        deadline.begin()
        blame: Blame | None = Blame.GONE
        try:
            self._push(Route(self.ledger.policy, self.ledger.request), until - LAST_WORD * left)
            ended = await self._loop()
            deadline.stop()
            blame = None  # a call that failed was closed, with its own blame, when it did
            await self._conclude(ended)
            for live in self._live.values():
                await live.call.finish()
            return ended
        except PolicyError as error:
            return await self._give_up(Fault(Blame.GATEWAY, str(error), 500, "policy_error"))
        except asyncio.CancelledError:
            if not deadline.broke_it():
                raise
            fault = too_late()
            return await self._give_up(fault)
        finally:
            deadline.stop()
            self._close_all(blame)

    async def _loop(self) -> Ended:
        reply: Any = None
        while True:
            frame = self._frames[-1]
            try:
                step = frame.steps.send(reply)
            except StopIteration as stop:
                self._frames.pop()
                reply = ended = self._checked(stop.value, frame)
                if not self._frames:
                    return self._given or ended  # what the client saw is what counts
            except Exception:  # noqa: BLE001  # a policy is somebody else's code
                raise broke(frame.name) from None
            else:
                reply = await self._perform(step)

    async def _perform(self, step: Step) -> Any:  # noqa: PLR0911  # a reply per kind of step
        match step:
            case Next():
                return await self._next(step)
            case Emit():
                return await self._emit(step)
            case Open():
                return self._open(step)
            case Relay():
                return await self._relay(self._known(step.attempt))
            case Note():
                self.ledger.reason, self.ledger.detail = step.reason, step.detail
            case Close():
                self._drop(step.attempt.number, None)
            case Route():
                remaining = self._frames[-1].until - monotonic()
                self._push(step, monotonic() + remaining * step.share)
            case Compute():
                return await self._compute(step)
            case Render():
                return await self._render(step)
            case _:
                self._no_step(step)
        return None

    # ------------------------------------------------------------------------ the stack

    def _push(self, step: Route, until: float) -> None:
        policy = self.runtime.target(step.target)
        if policy is None:  # the config refuses dangling names; only a policy's own bug gets here
            raise PolicyError(f'there is nothing named "{step.target}" to route to')
        if self._fleet is None:
            self._fleet = self.runtime.snapshot()
        try:
            steps = policy.route(step.request, self._fleet)
        except Exception:  # noqa: BLE001  # a policy is somebody else's code
            raise broke(step.target) from None
        self._frames.append(Frame(step.target, steps, until))

    def _checked(self, ended: Any, frame: Frame) -> Ended:
        if not isinstance(ended, Finished | Failed):
            raise PolicyError(f'the policy "{frame.name}" did not say how it ended')
        if isinstance(ended, Finished) and not (self.answer.committed or self.answer.composer):
            raise PolicyError(f'the policy "{frame.name}" finished without an answer')
        return ended

    def _no_step(self, step: Never) -> None:
        name = self._frames[-1].name
        raise PolicyError(f'the policy "{name}" asked for {step!r}, which is no step')

    async def _compute(self, step: Compute) -> Any:
        try:
            return await asyncio.to_thread(step.function, *step.arguments)
        except Exception:  # noqa: BLE001  # as above: it is the policy's function
            raise broke(self._frames[-1].name) from None

    def _pool(self, model: str) -> Pool:
        if pool := self.runtime.pools.get(model):
            return pool
        raise PolicyError(f'there is no model named "{model}" to open')

    # ------------------------------------------------------------------------- attempts

    def _open(self, step: Open) -> Attempt:
        pool, number = self._pool(step.model), len(self.ledger.tallies)
        if not pool.serves(step.request.surface):
            return self._unplace(step, not_served(step))
        if monotonic() >= self._frames[-1].until:
            return self._unplace(step, too_late())
        backend = pool.pick(step.request.raw, step.avoid, self.engine.rng)
        if backend is None:
            return self._unplace(step, nowhere(pool, step.avoid))
        attempt = Attempt(number, step.model, backend.name)
        sending = outgoing(step, pool)
        tally = Tally(step.model, backend.name, monotonic(), pool.price, len(sending.body))
        self.ledger.tallies.append(tally)
        call = Call(attempt, backend, sending, self._limits(step, pool), tally, self.engine.alarms)
        self._live[number] = Live(call, step.avoid | {backend.name}, hidden_by(step))
        return attempt

    def _unplace(self, step: Open, fault: Fault) -> Attempt:
        """An attempt that found no backend: what is wrong is heard with its first event."""
        attempt = Attempt(-1 - len(self._unplaced), step.model, "")
        self._unplaced[attempt.number] = Failed(attempt, fault)
        return attempt

    def _limits(self, step: Open, pool: Pool) -> Limits:
        """An attempt may be silent for its share of what is left: others want to try, too."""
        settings = self.runtime.config.limits
        others = len(pool.candidates(step.avoid))
        left = max(self._frames[-1].until - monotonic(), 0.0)
        share = step.share * left / max(others, 1)
        return limits(settings, min(share, settings.first_token) if step.request.stream else share)

    def _known(self, attempt: Attempt) -> Live | Failed:
        if failed := self._unplaced.get(attempt.number):
            return failed
        if live := self._live.get(attempt.number):
            return live
        raise PolicyError(f"attempt {attempt.number} is not open")

    def _broke(self, live: Live, fault: Fault) -> Failed:
        """The call failed: close it, and say whether its pool has another backend to try."""
        attempt = live.call.attempt
        sent = live.call.tally.answer and self.answer.committed
        del self._live[attempt.number]
        live.call.close(fault.blame)
        siblings = self.runtime.pools[attempt.model].candidates(live.avoid)
        spare = (
            fault.elsewhere
            and not sent
            and bool(siblings)
            and (fault.blame is Blame.BUSY or self.engine.budget.withdraw())
        )
        return Failed(attempt, fault, sent, spare)

    # --------------------------------------------------------------------------- waiting

    async def _next(self, step: Next) -> Event:
        if not step.attempts:
            raise PolicyError("there is no attempt to wait for")
        known = [self._known(attempt) for attempt in step.attempts]
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
            return await live.call.event(self.engine.upstream)
        except FaultError as error:
            return self._broke(live, error.fault)
        finally:
            self.ledger.waited += monotonic() - before

    async def _race(self, lives: Iterable[Live], patience: float | None) -> Event:
        before = monotonic()
        tasks: dict[asyncio.Task[Event], Live] = {}
        for live in lives:
            if live.waiting is None:
                live.waiting = asyncio.create_task(live.call.event(self.engine.upstream))
            tasks[live.waiting] = live
        done, _ = await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        self.ledger.waited += monotonic() - before
        for task, live in tasks.items():
            if task in done:
                live.waiting = None
                try:
                    return task.result()
                except FaultError as error:
                    return self._broke(live, error.fault)
        return TimedOut()

    # --------------------------------------------------------------------------- sending

    async def _relay(self, live: Live | Failed) -> Ended:
        if isinstance(live, Failed):
            return live
        if live.waiting is not None:
            raise PolicyError("an attempt that is being raced must be heard before it is relayed")
        call, answer = live.call, self.answer
        if answer.composer or (answer.committed and not call.tally.answer):
            raise PolicyError("the answer has begun with another attempt: it cannot be relayed")
        call.tally.answer, answer.hidden = True, live.hidden
        pass_on = answer.pass_on if self.ledger.request.stream else answer.whole
        try:
            while call.held:
                await pass_on(call.held.popleft())
            await self._relay_rest(call, pass_on)
        except FaultError as error:
            failed = self._broke(live, error.fault)
            call.tally.answer = failed.sent
            self._given = failed if failed.sent else None
            return failed
        self._given = call.finished if answer.committed else None
        return call.finished

    async def _relay_rest(self, call: Call, pass_on: Callable[[bytes], Awaitable[None]]) -> None:
        """The loop that runs once per token, and does as little as it can."""
        ledger, upstream, last = self.ledger, self.engine.upstream, 0.0
        before = monotonic()
        while part := await call.part(upstream):
            now = monotonic()
            ledger.waited += now - before
            if last:
                ledger.gaps.append(now - last)
            last = now
            await pass_on(part)
            before = monotonic()

    async def _emit(self, step: Emit) -> None:
        live = self._known(step.attempt)
        if isinstance(live, Failed) or self.ledger.request.surface not in OPENAI_STREAMS:
            raise PolicyError("only an open attempt of a chat or a completion can be emitted from")
        if self.answer.committed and not self.answer.composer:
            raise PolicyError("the answer was relayed: nothing can be emitted into it")
        live.call.tally.answer = True
        if self.answer.composer is None:
            self.answer.composer = Composer(self.ledger.request, int(self.engine.wall()))
        if part := self.answer.composer.text(step.text):
            await self.answer.pass_on(part)

    async def _render(self, step: Render) -> tuple[int, ...] | Failed:
        pool = self._pool(step.model)
        backend = pool.pick(step.request.raw, frozenset(), self.engine.rng)
        if backend is None:
            return Failed(Attempt(-1, step.model, ""), nowhere(pool, frozenset()))
        try:
            return await prompt_ids(self.engine.upstream, backend, pool, step.request)
        except FaultError as error:
            return Failed(Attempt(-1, step.model, backend.name), error.fault)

    # ------------------------------------------------------------------------- the end

    async def _conclude(self, ended: Ended) -> None:
        if isinstance(ended, Finished):
            await self.answer.end(ended)
        elif self.answer.complete:  # what failed came after the answer, and is not the client's
            await self.answer.end(Finished(ended.attempt))
        else:
            self.ledger.fault = ended.fault
            await self.answer.fail(ended.fault)

    async def _give_up(self, fault: Fault) -> Failed:
        self._close_all(fault.blame)  # first: a client that does not read must not hold a backend
        failed = Failed(Attempt(-1, "", ""), fault, self.answer.committed)
        await self._conclude(failed)
        return failed

    def _drop(self, number: int, blame: Blame | None) -> None:
        """Close a call that has not failed; `blame` says who ended it early, if it is early."""
        if live := self._live.pop(number, None):
            if live.waiting and not live.waiting.cancel():
                live.waiting.exception()  # looked at, lest asyncio complain that nobody did
            live.call.close(None if live.call.complete else blame or Blame.GONE)

    def _close_all(self, blame: Blame | None) -> None:
        for number in list(self._live):
            self._drop(number, blame)
        while self._frames:
            frame = self._frames.pop()
            try:
                frame.steps.close()
            except Exception:  # noqa: BLE001  # as above; there is nobody left to tell
                traceback.print_exc(file=sys.stderr)
