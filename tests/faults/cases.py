"""One case: a request that meets a fault, what came of it, and whether that was promised.

What is right is known from the same request alone, while all is well: nothing is drawn, so the
answer is the same, or that of the model that was left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count

import aiohttp

from router.observe import RequestEnded
from tests.faults.injected import Injected, Kind
from tests.faults.policies import COMPOSED, DEADLINE, HEDGED, LARGE_ALONE, ONE_MODEL, POLICIES, body
from tests.faults.proxy import TRACE, Plan, trace
from tests.running import Running
from tests.soak.hearing import Heard, hear

GRACE = 10.0
"""Seconds after the deadline in which an answer must be over, on a busy machine."""
HONEST = (502, 503, 504)
NUMBERS = count()


class Scope(StrEnum):
    """Which calls of a request are hit."""

    FIRST = "first call"
    SMALL = "small model"
    ALL = "all calls"

    def hits(self, model: str, number: int) -> bool:
        """Whether the call of this number, to this model, is."""
        match self:
            case Scope.FIRST:
                return number == 0
            case Scope.SMALL:
                return model == "small"
            case Scope.ALL:
                return True


class Outcome(StrEnum):
    """Every case has one."""

    COMPLETE = "complete"
    REFUSED = "refused"
    ENDED = "ended"
    PASSED = "passed on"
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Alone:
    """What a policy answers while all is well."""

    text: str
    usage: Mapping[str, object]
    cost: float


@dataclass(frozen=True, slots=True)
class Case:
    """A fault, whom it hits, and who is asked."""

    injected: Injected
    scope: Scope
    policy: str
    stream: bool

    def __str__(self) -> str:
        how = "streamed" if self.stream else "whole"
        return f"{self.injected.what}; {self.scope}; {self.policy}, {how}"

    @property
    def capable(self) -> bool:
        """Whether somebody is left who can answer."""
        if self.injected.kind is Kind.HARMLESS:
            return True
        return self.scope is Scope.FIRST or (
            self.scope is Scope.SMALL and self.policy not in ONE_MODEL
        )


@dataclass(slots=True)
class Met:
    """A case, and what came of it."""

    case: Case
    outcome: Outcome
    told: str
    why: str = ""
    seconds: float = 0.0
    hits: int = 0


@dataclass(slots=True)
class Bench:
    """A gateway whose backends misbehave, and what is right."""

    gateway: Running
    plan: Plan
    alone: dict[tuple[str, bool], Alone] = field(default_factory=dict)
    ended: dict[str, RequestEnded] = field(default_factory=dict)
    deadline: float = DEADLINE

    async def learn(self) -> None:
        """Ask every policy while all is well."""
        for policy in (*POLICIES, *LARGE_ALONE, "small", "large"):
            for stream in (True, False):
                heard, _ = await self._ask(policy, stream, next(NUMBERS))
                assert heard.complete, heard
                assert heard.usage is not None
                ended = await self._over(heard)
                said = {k: v for k, v in heard.usage.items() if k.endswith("_tokens")}
                self.alone[policy, stream] = Alone(heard.choice(0).text, said, ended.cost)

    async def meet(self, case: Case) -> Met:
        """Ask, and let the fault happen."""
        number = next(NUMBERS)
        self.plan.faults[number] = (case.injected.fault, case.scope.hits)
        before = time.monotonic()
        try:
            heard, lie = await self._ask(case.policy, case.stream, number)
        except TimeoutError:
            return Met(case, Outcome.WRONG, "no end", "no end", time.monotonic() - before)
        finally:
            del self.plan.faults[number]
        took = time.monotonic() - before
        ended = await self._over(heard)
        outcome, why = self._judged(case, heard, lie, ended)
        why = why or self._charged(case, heard, ended, number)
        told = f"{heard.status} {heard.error or ''}".strip()
        return Met(case, Outcome.WRONG if why else outcome, told, why, took, self.plan.hits[number])

    async def _ask(self, policy: str, stream: bool, number: int) -> tuple[Heard, str]:
        """What was heard, and what a careful client complains of."""
        heard = Heard()
        headers = {TRACE: trace(number)}
        connector = aiohttp.TCPConnector(force_close=True)
        limit = aiohttp.ClientTimeout(total=None)
        async with (
            asyncio.timeout(self.deadline + GRACE),
            aiohttp.ClientSession(
                self.gateway.url, connector=connector, headers=headers, timeout=limit
            ) as client,
        ):
            try:
                await hear(client, body(policy, stream=stream), heard)
            except (
                AssertionError,
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                RecursionError,
            ) as lie:
                return heard, f"{type(lie).__name__}: {lie}"[:200]
        return heard, ""

    async def _over(self, heard: Heard) -> RequestEnded:
        """What the gateway observed of it."""
        async with asyncio.timeout(GRACE):
            while heard.id not in self.ended:
                seen = [s for s in self.gateway.seen if isinstance(s, RequestEnded)]
                self.ended.update((each.id, each) for each in seen)
                self.gateway.seen.clear()
                await asyncio.sleep(0.005)
        return self.ended.pop(heard.id)

    # ---------------------------------------------------------------------------- what is right

    def _judged(
        self, case: Case, heard: Heard, lie: str, ended: RequestEnded
    ) -> tuple[Outcome, str]:
        if case.injected.kind is Kind.LIE:
            over = heard.complete or heard.error is not None or lie
            return Outcome.PASSED, "" if over else "no honest end"
        if lie:
            return Outcome.WRONG, lie
        text = heard.choice(0).text
        if heard.complete:
            right = text in self._rights(case) or self._two_wrote(case)
            return Outcome.COMPLETE, "" if right and text else f"text: {text!r}"
        return self._failed(case, heard, ended)

    def _failed(self, case: Case, heard: Heard, ended: RequestEnded) -> tuple[Outcome, str]:
        """Of an answer that did not come, or not to its end."""
        if heard.error is None:
            return Outcome.WRONG, "neither complete nor an error"
        if heard.status != 200:
            why = "" if heard.status in HONEST and not case.capable else "somebody could answer"
            return Outcome.REFUSED, why
        if ended.first_byte is None or (case.injected.kind is not Kind.WITHIN and case.capable):
            return Outcome.WRONG, "somebody could have gone on"
        text = heard.choice(0).text
        begun = any(right.startswith(text) for right in self._rights(case))
        right = begun or self._two_wrote(case) or case.injected.endless
        return Outcome.ENDED, "" if right else f"no beginning of an answer: {text!r}"

    def _rights(self, case: Case) -> Collection[str]:
        """The answers that may come."""
        own = self.alone[case.policy, case.stream].text
        if case.scope is Scope.FIRST and case.policy != HEDGED and not case.injected.endless:
            return [own]
        others = ("small", "large", *LARGE_ALONE)
        return [own, *(self.alone[other, case.stream].text for other in others)]

    def _two_wrote(self, case: Case) -> bool:
        """Whether the rest may be another model's: its words are its own from there on. Token by
        token they are judged in tests/soak.
        """
        moved = case.scope is not Scope.FIRST or case.injected.endless
        return case.policy in COMPOSED and moved

    def _charged(self, case: Case, heard: Heard, ended: RequestEnded, number: int) -> str:
        """What is wrong with what was counted; a call that nobody answered costs nothing."""
        alone = self.alone[case.policy, case.stream]
        made, known = self.plan.made[number], len(ended.attempts)
        if made > known + (known if case.injected.mute else self.plan.repeated):
            return f"{made} calls reached a backend, {known} are known"
        if case.injected.kind is Kind.LIE or not heard.complete or case.policy == HEDGED:
            return ""
        if heard.choice(0).text != alone.text or case.scope is not Scope.FIRST:
            return ""
        said = {name: heard.usage.get(name) for name in alone.usage} if heard.usage else {}
        if said != alone.usage:
            return f"usage: {said}, alone: {alone.usage}"
        once = case.injected.kind in (Kind.HARMLESS, Kind.BEFORE) and case.policy not in COMPOSED
        if once and abs(ended.cost - alone.cost) > 1e-12:
            return f"{ended.cost:.9f} USD, alone {alone.cost:.9f}"
        return ""
