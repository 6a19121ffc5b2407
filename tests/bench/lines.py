"""What a place costs on the hot path, and what becomes of those who wait under each discipline.

Run it as `python -m tests.bench.lines`. Figures of docs/overload.md that no `tandem bench` gives
come from here. The second part is a simulation in virtual time, of the line that serves: requests
come by a Poisson process, answers take a lognormal time of 8 s in the mean.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import cast

import router.line
from policies import TABLE
from router.alarms import Alarms
from router.attempts import Attempts, Shared
from router.budget import RetryBudget
from router.config import Form, parse
from router.ledger import Ledger
from router.line import HIGH, Bounds, Line, Place, Waiting
from router.runtime import Runtime, build
from router.steps import Open
from router.upstream import Upstream
from tests.fleets import request

REPEATS, NUMBER = 15, 2000
MEAN, SPREAD = 8.0, 0.8
SECONDS = 3000.0


# ------------------------------------------------------------------------------- the hot path


def runtime(servers: int, queue: dict[str, int] | None) -> Runtime:
    """One model of so many servers, with or without a limit."""
    urls = [f"http://127.0.0.1:{number}" for number in range(1, servers + 1)]
    model = {"backends": urls, **({"queue": queue} if queue else {})}
    return build(parse(json.dumps({"models": {"m": model}}), TABLE, "", Form.JSON), TABLE, 1)


async def opening(made: Runtime) -> float:
    """CPU microseconds of opening and closing a call."""
    budget = RetryBudget(0.0, 0.0, monotonic)
    shared = Shared(cast("Upstream", None), budget, Alarms(), random.Random(0), time.time)
    asked, price = request(), made.pools["m"].price
    before = time.process_time()
    for _ in range(NUMBER):
        attempts = Attempts(shared, made, Ledger(asked, "m", 1, None, 0.0, price))
        await attempts.open(Open("m", asked), monotonic() + 60)
        attempts.close_all(None)
    return (time.process_time() - before) / NUMBER * 1e6


def hot_path() -> None:
    """What a place adds to a call where one is free: in turns, the best of each."""
    for servers in (1, 8):
        ways = [runtime(servers, None), runtime(servers, {"in_flight": 64})]
        runs = [[asyncio.run(opening(way)) for way in ways] for _ in range(REPEATS)]
        bare, limited = (min(times) for times in zip(*runs, strict=True))
        told = f"{servers} server{'s' if servers > 1 else ''}: a call {bare:.1f} us"
        print(f"{told}, with a place {limited:.1f} us, so {limited - bare:.1f} us more")


# ------------------------------------------------------------------------------ the disciplines


@dataclass(slots=True)
class Day:
    """A simulated stretch of time at one load."""

    load: float
    places: int
    waits: list[float] = field(default_factory=list)
    shed: list[float] = field(default_factory=list)
    now: float = 0.0

    def bounds(self, share: float) -> Bounds:
        """Those of the defaults."""
        return Bounds(self.places, 256, 10.0, 0.1)

    def has_place(self, taken: int, share: float) -> bool:
        """By the same bounds."""
        return taken < self.places

    def run(self, rng: random.Random) -> None:
        """Let it pass."""
        line, tick = Line(lambda: self.now), count()
        events: list[tuple[float, int, Callable[[], None]]] = []
        waiting: dict[Waiting, float] = {}

        def at(when: float, what: Callable[[], None]) -> None:
            heapq.heappush(events, (when, next(tick), what))

        def begin(place: Place, came: float) -> None:
            self.waits.append(self.now - came)
            middle = math.log(MEAN) - SPREAD**2 / 2
            at(self.now + rng.lognormvariate(middle, SPREAD), place.leave)

        def arrive() -> None:
            at(self.now + rng.expovariate(self.load * self.places / MEAN), arrive)
            if place := line.enter(self):
                begin(place, self.now)
            elif isinstance(stood := line.stand(HIGH, math.inf), Waiting):
                waiting[stood] = self.now
                at(self.now + self.bounds(1.0).longest, lambda: late(stood))
            else:
                self.shed.append(0.0)

        def late(stood: Waiting) -> None:
            if stood in waiting:
                stood.overdue()
                self.shed.append(self.now - waiting.pop(stood))

        at(0.0, arrive)
        while events[0][0] < SECONDS:
            self.now, _, what = heapq.heappop(events)
            what()
            for stood in [each for each in waiting if each.place]:
                begin(cast("Place", stood.place), waiting.pop(stood))

    def told(self) -> str:
        """The figures, in one line."""
        served = sorted(self.waits)
        vain = sum(wait > 1 for wait in self.shed) / (len(self.shed) + len(served))
        rate = len(served) / (SECONDS * self.places / MEAN)
        return (
            f"{rate:6.1%} of capacity, wait p50 {served[len(served) // 2]:.1f} s, "
            f"p95 {served[int(0.95 * len(served))]:.1f} s, {vain:.1%} waited in vain"
        )


def disciplines() -> None:
    """With and without the shorter line of overload."""
    brief = router.line.BRIEF
    for places, load in ((64, 0.9), (64, 1.1), (64, 3.0), (8, 3.0)):
        for name, share in (("one longest wait", 1.0), ("shorter in overload", brief)):
            router.line.BRIEF = share
            day = Day(load, places)
            day.run(random.Random(1))
            print(f"{places:3} places, {load:g}x, {name:20}{day.told()}")
    router.line.BRIEF = brief


def main() -> None:
    hot_path()
    disciplines()


if __name__ == "__main__":
    main()
