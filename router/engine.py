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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, assert_never

from router.answer import Answer
from router.budget import RetryBudget
from router.call import Call, Limits
from router.compose import Composer
from router.dialect import OPENAI_STREAMS
from router.faults import Blame, Fault, FaultError
from router.fleet import Fleet
from router.ledger import Ledger, Tally
from router.outgoing import hidden_by, outgoing
from router.pool import Pool
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

MEGABYTE = 1 << 20
KILOBYTE = 1 << 10
LAST_WORD = 0.02
"""Share of the deadline kept back, so that a backend's silence is noticed as such before the
deadline ends everything without telling whose fault it was."""


class PolicyError(Exception):
    """A policy broke the rules of `router.steps`; the message says which."""


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


@dataclass(slots=True)
class Drive:
    """One request being driven. Make one, `run` it once."""

    runtime: Runtime
    ledger: Ledger
    answer: Answer
    upstream: Upstream
    budget: RetryBudget
    rng: random.Random
    wall: Callable[[], float]
    _frames: list[Frame] = field(default_factory=list)
    _live: dict[int, Live] = field(default_factory=dict)
    _unplaced: dict[int, Failed] = field(default_factory=dict)
    _fleet: Fleet | None = None

    async def run(self, until: float) -> Ended:
        """Answer the request; `until` is the time (`time.monotonic`) at which it must be over."""
        self.budget.deposit()
        blame: Blame | None = Blame.GONE
        try:
            answer_by = until - LAST_WORD * (until - monotonic())
            self._push(Route(self.ledger.policy, self.ledger.request), answer_by)
            async with asyncio.timeout(until - monotonic()):
                ended = await self._loop()
            blame = ended.fault.blame if isinstance(ended, Failed) else None
            await self._conclude(ended)
            for live in self._live.values():
                await live.call.finish()
            return ended
        except PolicyError as error:
            blame = Blame.GATEWAY
            return await self._give_up(Fault(blame, str(error), 500, "policy_error"))
        except TimeoutError:
            blame = Blame.GATEWAY
            fault = Fault(Blame.GATEWAY, "the request's deadline has passed", 504, "deadline")
            return await self._give_up(fault)
        finally:
            self._close_all(blame)

    async def _loop(self) -> Ended:
        reply: Any = None
        while True:
            frame = self._frames[-1]
            try:
                step = frame.steps.send(reply)
            except StopIteration as stop:
                self._frames.pop()
                reply = stop.value
                if not self._frames:
                    return self._checked(reply, frame)
            except Exception:  # noqa: BLE001  # a policy is somebody else's code
                traceback.print_exc(file=sys.stderr)
                message = f'the policy "{frame.name}" broke; the gateway\'s log has the details'
                return self._failed(Fault(Blame.GATEWAY, message, 500, "policy_error"))
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
                self._close(step.attempt.number, None)
            case Route():
                remaining = self._frames[-1].until - monotonic()
                self._push(step, monotonic() + remaining * step.share)
            case Compute():
                return await asyncio.to_thread(step.function, *step.arguments)
            case Render():
                return await self._render(step)
            case _:
                assert_never(step)
        return None

    # ------------------------------------------------------------------------ the stack

    def _push(self, step: Route, until: float) -> None:
        policy = self.runtime.target(step.target)
        if policy is None:  # the config refuses dangling names; only a policy's own bug gets here
            raise PolicyError(f'there is nothing named "{step.target}" to route to')
        if self._fleet is None:
            self._fleet = self.runtime.snapshot()
        self._frames.append(Frame(step.target, policy.route(step.request, self._fleet), until))

    def _checked(self, ended: Ended, frame: Frame) -> Ended:
        if isinstance(ended, Finished) and not (self.answer.committed or self.answer.composer):
            message = f'the policy "{frame.name}" finished without an answer'
            return self._failed(Fault(Blame.GATEWAY, message, 500, "policy_error"))
        return ended

    # ------------------------------------------------------------------------- attempts

    def _open(self, step: Open) -> Attempt:
        pool, number = self.runtime.pools[step.model], len(self.ledger.tallies)
        served = pool.serves(step.request.surface)
        backend = pool.pick(step.request.raw, step.avoid, self.rng) if served else None
        if backend is None:
            fault = self._nowhere(pool, step.avoid) if served else not_served(step)
            attempt = Attempt(-1 - len(self._unplaced), step.model, "")
            self._unplaced[attempt.number] = Failed(attempt, fault)
            return attempt
        attempt = Attempt(number, step.model, backend.name)
        sending = outgoing(step, pool)
        tally = Tally(step.model, backend.name, monotonic(), pool.price, len(sending.body))
        self.ledger.tallies.append(tally)
        call = Call(attempt, backend, sending, self._limits(step, pool), tally)
        self._live[number] = Live(call, step.avoid | {backend.name}, hidden_by(step))
        return attempt

    def _nowhere(self, pool: Pool, avoid: frozenset[str]) -> Fault:
        states = ", ".join(f"{b.name} is {b.state}" for b in pool.backends if b.name not in avoid)
        why = states or "all of them were tried"
        message = f'no backend of the model "{pool.name}" can take the request: {why}'
        return Fault(Blame.BACKEND, message, 503, "no_backend", retry_after=1.0)

    def _limits(self, step: Open, pool: Pool) -> Limits:
        """An attempt may be silent for its share of what is left: others want to try, too."""
        settings = self.runtime.config.limits
        others = len(pool.candidates(step.avoid))
        share = max(self._frames[-1].until - monotonic(), 0.0) / max(others, 1)
        return Limits(
            first=min(share, settings.first_token) if step.request.stream else share,
            idle=settings.idle,
            answer=int(settings.answer_mb * MEGABYTE),
            hold=int(settings.hold_mb * MEGABYTE),
            event=int(settings.event_kb * KILOBYTE),
        )

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
        self._close(attempt.number, fault.blame)
        siblings = self.runtime.pools[attempt.model].candidates(live.avoid)
        spare = (
            fault.elsewhere
            and not sent
            and bool(siblings)
            and (fault.blame is Blame.BUSY or self.budget.withdraw())
        )
        return Failed(attempt, fault, sent, spare)

    # --------------------------------------------------------------------------- waiting

    async def _next(self, step: Next) -> Event:
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
            return await live.call.event(self.upstream)
        except FaultError as error:
            return self._broke(live, error.fault)
        finally:
            self.ledger.waited += monotonic() - before

    async def _race(self, lives: Iterable[Live], patience: float | None) -> Event:
        before = monotonic()
        tasks: dict[asyncio.Task[Event], Live] = {}
        for live in lives:
            if live.waiting is None:
                live.waiting = asyncio.create_task(live.call.event(self.upstream))
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
        call, answer, ledger = live.call, self.answer, self.ledger
        call.tally.answer, answer.hidden = True, live.hidden
        stream, last = ledger.request.stream, 0.0
        try:
            while part := (call.held.popleft() if call.held else await self._part(call)):
                if not stream:
                    await answer.whole(part)
                    continue
                now = monotonic()
                if last:
                    ledger.gaps.append(now - last)
                last = now
                await answer.pass_on(part)
        except FaultError as error:
            failed = self._broke(live, error.fault)
            call.tally.answer = failed.sent
            return failed
        return call.finished

    async def _part(self, call: Call) -> bytes:
        before = monotonic()
        try:
            return await call.part(self.upstream)
        finally:
            self.ledger.waited += monotonic() - before

    async def _emit(self, step: Emit) -> None:
        live = self._known(step.attempt)
        if isinstance(live, Failed) or self.ledger.request.surface not in OPENAI_STREAMS:
            raise PolicyError("only an open attempt of a chat or a completion can be emitted from")
        live.call.tally.answer = True
        if self.answer.composer is None:
            self.answer.composer = Composer(self.ledger.request, int(self.wall()))
        if part := self.answer.composer.text(step.text):
            await self.answer.pass_on(part)

    async def _render(self, step: Render) -> tuple[int, ...] | Failed:
        pool = self.runtime.pools[step.model]
        backend = pool.pick(step.request.raw, frozenset(), self.rng)
        if backend is None:
            return Failed(Attempt(-1, step.model, ""), self._nowhere(pool, frozenset()))
        try:
            return await prompt_ids(self.upstream, backend, pool, step.request)
        except FaultError as error:
            return Failed(Attempt(-1, step.model, backend.name), error.fault)

    # ------------------------------------------------------------------------- the end

    async def _conclude(self, ended: Ended) -> None:
        if isinstance(ended, Failed):
            self.ledger.fault = ended.fault
            await self.answer.fail(ended.fault)
        else:
            await self.answer.end(ended)

    async def _give_up(self, fault: Fault) -> Failed:
        failed = self._failed(fault)
        await self._conclude(failed)
        return failed

    def _failed(self, fault: Fault) -> Failed:
        return Failed(Attempt(-1, "", ""), fault, self.answer.committed)

    def _close(self, number: int, blame: Blame | None) -> None:
        if live := self._live.pop(number, None):
            if live.waiting:
                live.waiting.cancel()
            complete = live.call.complete
            live.call.close(blame if blame or complete else Blame.GONE)

    def _close_all(self, blame: Blame | None) -> None:
        for frame in reversed(self._frames):
            frame.steps.close()
        for number in list(self._live):
            self._close(number, blame)


def not_served(step: Open) -> Fault:
    """The fault of asking a model for an API that its backends do not have."""
    message = f'the model "{step.model}" does not serve /v1/{step.request.surface.value}'
    return Fault(Blame.CLIENT, message, 404, "unsupported_endpoint", "model")
