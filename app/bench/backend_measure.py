"""Times one idle server at pairs of lengths, for `tandem bench backend` and `tandem bench pair`.

One answer at a time. Every round asks each pair of lengths once, in random order, so that a
disturbance hits none alone; pairs between those of the grid are measured in the same rounds and
kept out of the fit. It ends after so many rounds or seconds, and not before each pair was asked.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from statistics import median
from typing import Never, TypeAlias

from tqdm import tqdm

from app.bench.backend_fit import FitError, Fitted, Timed, errors, fitted
from app.bench.backend_server import Server, client, opened
from app.bench.processes import BenchError
from router.probe import Endpoint

__all__ = ["Found", "Plan", "held_out", "measure"]

LOOKS, PAUSE = 8, 0.25
"""How often a server that seems busy is looked at again, and the seconds between: a gauge may lag
behind the last answer."""
SCATTER = 0.15
"""Mean deviation of repeated measures from their median, by which a server is not idle."""
SHORT = 0.5
"""Answers shorter than this share of what was asked for leave `decode` to chance."""

Lengths: TypeAlias = tuple[int, int]
"""Tokens of the prompt, and of the answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: the grid of `prompts` and `answers` (tokens), `rounds` of all of it, for
    about `limit` seconds at most.
    """

    url: str
    model: str | None = None
    key: str | None = None
    prompts: tuple[int, ...] = (16, 64, 256, 1024)
    answers: tuple[int, ...] = (1, 16, 64, 256)
    rounds: int = 5
    limit: float = 300.0
    seed: int = 0


@dataclass(slots=True)
class Found:
    """What was measured of `model`, and fitted: `used` in the fit, `kept` out of it."""

    model: str
    used: list[Timed]
    kept: list[Timed]
    fitted: Fitted
    warnings: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[float]:
        """Relative errors on the lengths that the fit has not seen."""
        return errors(self.kept, self.fitted.idealised)

    @property
    def median_error(self) -> float:
        """Their median."""
        return median(self.errors)


def held_out(prompts: Sequence[int], answers: Sequence[int]) -> list[Lengths]:
    """Pairs of lengths between those of the grid, in the middle by their ratio."""
    return list(product(_between(prompts), _between(answers)))


def _between(lengths: Sequence[int]) -> list[int]:
    pairs = pairwise(sorted(set(lengths)))
    return [middle for one, other in pairs if one < (middle := round(math.sqrt(one * other)))]


async def measure(plan: Plan, label: str = "backend") -> Found:
    """Time the server and fit. Raises `BenchError`."""
    async with client(plan.key) as asking:
        server = await opened(Endpoint(asking, plan.url, {}), plan.model, plan.seed)
        prompts = _fitting(plan, server.context)
        grid, between = list(product(prompts, plan.answers)), held_out(prompts, plan.answers)
        if not between:
            raise BenchError("there is no length between those of the grid to check the fit at")
        timing = Timing(server, plan)
        await timing.idle()
        with tqdm(
            total=plan.rounds * len(grid + between) + 1,
            desc=f"{label} {server.model}",
            file=sys.stderr,
            unit="answer",
            disable=None,
        ) as bar:
            await timing.warm_up(grid)
            bar.update()
            await timing.rounds([*grid, *between], bar)
    used = [timing.timed(lengths) for lengths in grid]
    kept = [timing.timed(lengths) for lengths in between]
    try:
        return Found(server.model, used, kept, fitted(used), list(timing.warnings()))
    except FitError as error:
        raise BenchError(str(error)) from None


def _fitting(plan: Plan, context: int | None) -> list[int]:
    """The prompts that leave room for the longest answer."""
    room = math.inf if context is None else context - max(plan.answers)
    fitting = [prompt for prompt in sorted(set(plan.prompts)) if prompt < room]
    if len(fitting) < 2:
        raise BenchError(
            f"a prompt and an answer have {context} tokens at most here: give two shorter --prompts"
        )
    return fitting


@dataclass(slots=True)
class Timing:
    """Measures as they come."""

    server: Server
    plan: Plan
    seconds: dict[Lengths, list[float]] = field(default_factory=dict)
    tokens: dict[Lengths, list[Lengths]] = field(default_factory=dict)
    cached: int = 0
    disturbed: int = 0

    async def idle(self) -> None:
        """Raises `BenchError` while the server answers others."""
        if busy := await self._others():
            raise BenchError(
                f"{self.server.endpoint.url} is answering {busy} other requests: measure it idle"
            )

    async def warm_up(self, grid: Sequence[Lengths]) -> None:
        """The shortest and the longest pair, whose first answers are slow, and not counted."""
        for lengths in (min(grid), max(grid)):
            await self.server.timed(*lengths)

    async def rounds(self, asked: Sequence[Lengths], bar: tqdm[Never]) -> None:
        """All rounds, the first one whatever the time."""
        ends = time.monotonic() + self.plan.limit
        for number in range(self.plan.rounds):
            if number and await self._others():
                self.disturbed += 1
            for lengths in self.server.rng.sample(asked, len(asked)):
                if number and time.monotonic() > ends:
                    return
                usage, seconds = await self.server.timed(*lengths)
                self.seconds.setdefault(lengths, []).append(seconds)
                self.tokens.setdefault(lengths, []).append((usage.prompt, usage.completion))
                self.cached += usage.cached
                bar.update()

    def timed(self, lengths: Lengths) -> Timed:
        """The measures of one pair, under the lengths that the server counted."""
        prompts, answers = zip(*self.tokens[lengths], strict=True)
        return Timed(round(median(prompts)), round(median(answers)), tuple(self.seconds[lengths]))

    def warnings(self) -> list[str]:
        """What makes the figures worth less."""
        found = []
        if self.disturbed:
            found.append(f"the server had other requests before {self.disturbed} rounds")
        if (scatter := self._scatter()) > SCATTER:
            found.append(
                f"repeated measures differ by {scatter:.0%} from their median: the server or its "
                "machine is not idle"
            )
        short = [asked for (_, asked), told in self.tokens.items() if _short(asked, told)]
        if short:
            found.append(
                f"{len(short)} of {len(self.tokens)} answers ended early, and the server does not "
                "take ignore_eos: decode is told by short answers"
            )
        if self.cached:
            found.append(f"{self.cached} tokens of prompts came from a prefix cache")
        return found

    def _scatter(self) -> float:
        """Mean deviation from the median, as a share of it: the median over lengths."""
        several = [told for told in self.seconds.values() if len(told) > 1]
        if not several:
            return 0.0
        return median(
            sum(abs(one / median(told) - 1) for one in told) / len(told) for told in several
        )

    async def _others(self) -> int:
        """Requests that are not ours: those that are still there after some time."""
        for _ in range(LOOKS):
            if not (busy := await self.server.busy()):
                return 0
            await asyncio.sleep(PAUSE)
        return busy


def _short(asked: int, told: Sequence[Lengths]) -> bool:
    return median(answer for _, answer in told) < SHORT * asked
