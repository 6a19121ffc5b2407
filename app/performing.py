"""A policy's phrases performed by a gateway that runs, for what no client could ask for.

What a verifier says of a sample is then what it says in serving: the same code asks, and the same
code answers it (`router.attempts`, as `router.engine` uses it). Must not know what is asked or why.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

from app.trial import Trial
from router.attempts import Attempts
from router.ledger import Ledger
from router.phrases import Phrase
from router.scoring import scored
from router.steps import Close, Compute, Next, Open, Request, Score, Step, Usage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Performance:
    """Phrases about one request, which may take until then (`time.monotonic`)."""

    attempts: Attempts
    until: float

    async def of(self, phrase: Phrase[T]) -> T:
        """What the phrase comes to. Raises TypeError for a step that is not about attempts."""
        reply: Any = None
        while True:
            try:
                step = phrase.send(reply)
            except StopIteration as stop:
                result: T = stop.value
                return result
            reply = await self._reply(step)

    async def _reply(self, step: Step) -> Any:
        match step:
            case Open():
                return await self.attempts.open(step, self.until)
            case Next():
                return await self.attempts.next(step)
            case Close():
                return await self.attempts.close(step.attempt)
            case Score():
                return await scored(step, self.attempts, self.until)
            case Compute():
                return step.function(*step.arguments)
            case _:
                raise TypeError(f"{type(step).__name__} is a matter for the engine")

    def usage(self, model: str) -> Usage:
        """What this model has read and written so far."""
        tallies = self.attempts.ledger.tallies
        counted = [each.usage for each in tallies if each.model == model and each.usage]
        return sum(counted, Usage())


@contextlib.asynccontextmanager
async def performing(trial: Trial, request: Request) -> AsyncIterator[Performance]:
    """Phrases about this request, whose calls are closed at the end."""
    runtime, now = trial.rooms.revisions.runtime, monotonic()
    baseline = runtime.pools[runtime.baseline].price
    ledger = Ledger(request, request.target, runtime.revision, None, now, baseline)
    attempts = Attempts(trial.rooms.gateway.shared, runtime, ledger)
    try:
        yield Performance(attempts, now + runtime.config.limits.deadline)
        await attempts.finish()
    finally:
        attempts.close_all(None)
