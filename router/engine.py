"""The engine: drives one policy for one request. The only code that waits.

A policy yields steps; the engine performs each and sends back the reply. Policies that hand a
request on (`Route`) are stacked: the innermost speaks, and how it ended is the reply to the one
that handed on. Whatever happens (an end, an error, a client that left, a deadline), one `finally`
closes every call and so releases every guard.

It knows no HTTP server, no metric and no policy by name.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Never

from router.answer import Answer
from router.attempts import Attempts, Shared
from router.backend import Backend
from router.call import Call
from router.choices import Only
from router.compose import Composer
from router.dialect import OPENAI_STREAMS
from router.faults import Blame, Fault, FaultError
from router.fleet import Fleet
from router.ledger import Ledger, told
from router.patience import Patience
from router.pool import Pool
from router.refusals import PolicyError, broke, nowhere, too_late
from router.runtime import Runtime
from router.scoring import scored
from router.steps import (
    Attempt,
    Begin,
    Close,
    Compute,
    Embed,
    Emit,
    Ended,
    Failed,
    Finished,
    Next,
    Note,
    Open,
    Parse,
    Relay,
    Render,
    Request,
    Route,
    Score,
    Scores,
    Spell,
    Step,
    Steps,
)
from router.tokens import Asked, Question, Told, answered

LAST_WORD = 0.02
"""Share of the deadline kept back, so that a backend's silence is noticed as such before the
deadline ends everything without telling whose fault it was."""
ASKED_SHARE = 0.25
"""Of the time that is left, for a question about tokens: the answer is yet to be written."""
NONE: frozenset[str] = frozenset()


@dataclass(slots=True)
class Frame:
    """One policy on the stack, until when (monotonic time) it may begin to answer, what it said."""

    name: str
    steps: Steps
    until: float
    said: str = ""


@dataclass(slots=True)
class Drive:
    """One request being driven. Make one, `run` it once."""

    shared: Shared
    runtime: Runtime
    ledger: Ledger
    answer: Answer
    _attempts: Attempts = field(init=False)
    _frames: list[Frame] = field(default_factory=list)
    _fleet: Fleet | None = None
    _given: Ended | None = None
    _spoke: float = 0.0

    def __post_init__(self) -> None:
        self._attempts = Attempts(self.shared, self.runtime, self.ledger)

    @property
    def fleet(self) -> Fleet:
        """The picture of the fleet that this request's policies are shown."""
        if self._fleet is None:
            self._fleet = self.runtime.snapshot()
        return self._fleet

    async def run(self, until: float) -> Ended:
        """Answer the request; `until` is the time (`time.monotonic`) at which it must be over."""
        self.shared.budget.deposit()
        left = until - monotonic()
        deadline = Patience(self.shared.alarms, left)
        deadline.begin()
        blame: Blame | None = Blame.GONE
        try:
            self._push(Route(self.ledger.policy, self.ledger.request), until - LAST_WORD * left)
            ended = await self._loop()
            deadline.stop()
            blame = None  # a call that failed was closed, with its own blame, when it did
            await self._conclude(ended)
            await self._attempts.finish()
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

    async def _perform(self, step: Step) -> Any:  # noqa: C901, PLR0911  # a reply per kind of step
        match step:
            case Next():
                return await self._attempts.next(step)
            case Emit():
                return await self._emit(step)
            case Open():
                return await self._attempts.open(step, self._frames[-1].until)
            case Relay():
                return await self._relay(step)
            case Note():
                self._note(step)
            case Close():
                await self._attempts.close(step.attempt)
            case Route():
                remaining = self._frames[-1].until - monotonic()
                self._push(step, monotonic() + remaining * step.share)
            case Begin():
                return self._begun(step.target, step.request)
            case Compute():
                return await self._compute(step)
            case Render() | Spell() | Parse() | Embed() | Score():
                return await self._ask(step)
            case _:
                self._no_step(step)
        return None

    # ------------------------------------------------------------------------ the stack

    def _push(self, step: Route, until: float) -> None:
        self._frames.append(Frame(step.target, self._begun(step.target, step.request), until))

    def _begun(self, target: str, request: Request) -> Steps:
        policy = self.runtime.target(target)
        if policy is None:  # the config refuses dangling names; only a policy's own bug gets here
            raise PolicyError(f'there is nothing named "{target}" to route to')
        try:
            return policy.route(request, self.fleet)
        except Exception:  # noqa: BLE001  # a policy is somebody else's code
            raise broke(target) from None

    def _checked(self, ended: Any, frame: Frame) -> Ended:
        if not isinstance(ended, Finished | Failed):
            raise PolicyError(f'the policy "{frame.name}" did not say how it ended')
        if isinstance(ended, Finished) and not (self.answer.committed or self.answer.composer):
            raise PolicyError(f'the policy "{frame.name}" finished without an answer')
        return ended

    def _no_step(self, step: Never) -> None:
        name = self._frames[-1].name
        raise PolicyError(f'the policy "{name}" asked for {step!r}, which is no step')

    def _note(self, step: Note) -> None:
        ledger, frame = self.ledger, self._frames[-1]
        ledger.reason, ledger.detail = step.reason, step.detail
        ledger.before = tuple(outer.said for outer in self._frames[:-1] if outer.said)
        if step.cited is not None:
            ledger.cited = step.cited
        if step.sent is not None:
            ledger.sent = step.sent
        frame.said = told(step.reason, step.detail)

    async def _compute(self, step: Compute) -> Any:
        try:
            began, size = self.ledger.began, len(self.ledger.request.raw)
            return await self.shared.computing.run(step.function, step.arguments, began, size)
        except Exception:  # noqa: BLE001  # as above: it is the policy's function
            raise broke(self._frames[-1].name) from None

    # --------------------------------------------------------------------------- sending

    async def _relay(self, step: Relay) -> Ended:
        live = self._attempts.known(step.attempt)
        if isinstance(live, Failed):
            return live
        if live.waiting is not None:
            raise PolicyError("an attempt that is being raced must be heard before it is relayed")
        call, answer = live.call, self.answer
        if answer.composer or (answer.committed and not call.tally.answer):
            raise PolicyError("the answer has begun with another attempt: it cannot be relayed")
        call.tally.answer, answer.hidden = True, live.hidden
        answer.only = None if step.choice is None else self._only(call, step.choice, step.beside)
        pass_on = answer.pass_on if self.ledger.request.stream else answer.whole
        try:
            while call.held:
                await pass_on(call.held.popleft())
            await self._relay_rest(call, pass_on)
        except FaultError as error:
            failed = self._attempts.broke(live, error.fault)
            call.tally.answer = failed.sent
            self._given = failed if failed.sent else None
            return failed
        self._given = call.finished if answer.committed else None
        return call.finished

    def _only(self, call: Call, choice: int, beside: Iterable[Attempt]) -> Only:
        """This choice of a call that was heard to its end, and what all of them have used."""
        if not (call.complete and call.held):
            raise PolicyError("a choice is relayed once all of them have been heard")
        call.picks(choice)
        usage = call.tally.usage
        for attempt in beside:
            other = self._attempts.used(attempt)
            if usage and other:
                usage = replace(usage, completion=usage.completion + other.completion)
        return Only(choice, usage)

    async def _relay_rest(self, call: Call, pass_on: Callable[[bytes], Awaitable[None]]) -> None:
        """The loop that runs once per token, and does as little as it can."""
        ledger, upstream, last = self.ledger, self.shared.upstream, 0.0
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
        if self.ledger.request.surface not in OPENAI_STREAMS:
            raise PolicyError("only a chat or a completion can be emitted into")
        if self.answer.committed and not self.answer.composer:
            raise PolicyError("the answer was relayed: nothing can be emitted into it")
        self._attempts.emits(step.attempt, len(step.tokens))
        self.ledger.beside.update(attempt.number for attempt in step.beside)
        if self.answer.composer is None:
            self.answer.composer = Composer(self.ledger.request, int(self.shared.wall()))
        if part := self.answer.composer.emit(step):
            now = monotonic()
            if self._spoke:
                self.ledger.gaps.append(now - self._spoke)
            self._spoke = now
            await self.answer.pass_on(part)

    async def _ask(self, step: Question | Score) -> Told | Scores | Failed:
        """What only a backend of the model knows: its template, its tokenizer, its parsers."""
        if isinstance(step, Score):
            return await scored(step, self._attempts, self._frames[-1].until)
        pool, tried, failed = self._attempts.pool(step.model), NONE, None
        before = monotonic()
        try:
            while backend := pool.pick(step.request.raw, tried, self.shared.rng):
                told = await self._ask_one(step, pool, backend)
                tried |= {backend.name}
                if not (isinstance(told, Failed) and self._attempts.spare(told.fault, pool, tried)):
                    return told
                failed = told
        finally:
            now = monotonic()
            self.ledger.waited += now - before
            self.ledger.asked.append((step.model, before, now))
        return failed or Failed(Attempt(-1, step.model, ""), nowhere(pool, tried))

    async def _ask_one(self, step: Question, pool: Pool, backend: Backend) -> Told | Failed:
        """The same of one backend, within its share of the time: somebody has yet to answer."""
        share = step.share if isinstance(step, Embed) else ASKED_SHARE
        left = max(self._frames[-1].until - monotonic(), 0.0) / max(len(pool.candidates()), 1)
        limit = min(left * share, self.runtime.config.limits.first_token)
        try:
            return await answered(Asked(self.shared, backend, pool, step.request, limit), step)
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

    def _close_all(self, blame: Blame | None) -> None:
        self._attempts.close_all(blame)
        while self._frames:
            frame = self._frames.pop()
            try:
                frame.steps.close()
            except Exception:  # noqa: BLE001  # as above; there is nobody left to tell
                traceback.print_exc(file=sys.stderr)
