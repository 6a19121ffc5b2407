"""What `tandem bench overload` measures: goodput over offered load, in three configurations.

One server of finite capacity (`app.bench.slots`), a gateway in a process of its own, and clients
that come by a Poisson process whatever becomes of those before them, give up when their patience is
over, and do not try again. *Goodput* is the rate of answers that were whole before that. The three:

    unlimited   the server has no limit: all that comes is sent on
    queue       the model has a `queue` of as many places as the server has slots
    overload    the same, and an `overload` policy with a smaller, faster model behind it

All times are about a twentieth of those of a large model, so that a run takes minutes.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from statistics import median
from typing import Any

from tqdm import tqdm

from app.bench.figures import Figure, Report, Target, machine, summary
from app.bench.gateway import serving
from app.bench.processes import BenchError, Running, free_port, module, running
from app.bench.slots import MODEL

WAYS = ("unlimited", "queue", "overload")
SPREAD = 0.5
"""Of the logarithm of an answer's time: its 95th percentile is twice its mean."""
LONGEST = 0.5
"""Seconds that a request may wait for a place: a twentieth of the default."""
WAIT = 0.1
"""Seconds of waiting from which on the smaller model answers: a twentieth of the default."""
SMALL_SLOTS, SMALL_FASTER = 4, 4
"""The smaller model writes four times as many answers at once, each in a quarter of the time."""
WARM = 2.0
"""Patiences before anything counts: by then whoever waits without a limit has waited in vain."""
ALONE = ("unlimited", "queue")
"""Where the large model answers alone: its peak is the best of all that these gave."""
AT = 3.0
TARGETS = {"queue": Target(0.9)}
"""The share of the peak that must be left at three times the capacity."""
MODELS = re.compile(rb"\r\nx-tandem-models: *([^\r=]*)", re.IGNORECASE)
DONE = b"data: [DONE]"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: `loads` in capacities; `seconds` for each; the server's `slots`, the mean
    time of an `answer`, and the clients' `patience`, in seconds.
    """

    loads: tuple[float, ...]
    seconds: float = 10.0
    repetitions: int = 1
    slots: int = 16
    answer: float = 0.4
    patience: float = 2.0

    @property
    def capacity(self) -> float:
        """Answers per second that the server can write."""
        return self.slots / self.answer


@dataclass(frozen=True, slots=True)
class Point:
    """One load in one configuration. `offered` and `good` per second; of all requests the share
    that was refused at once or later (`shed`), that nobody answered in time (`late`), and that the
    smaller model answered (`cheaper`); the median `seconds` of a good answer.
    """

    way: str
    load: float
    offered: float
    good: float
    shed: float
    late: float
    cheaper: float
    seconds: float
    repetition: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    status: int = 0
    model: str = ""
    whole: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """All points and the figures that follow from them."""

    report: Report
    points: list[Point]

    def as_json(self) -> str:
        """For programs."""
        tree = json.loads(self.report.as_json())
        return json.dumps({**tree, "points": [asdict(point) for point in self.points]}, indent=2)

    def as_text(self) -> str:
        """For people: a table, then the figures."""
        return f"{self.report.as_text()}\n\n{_table(self.points)}"


async def measure(plan: Plan) -> Found:
    """All of it. Raises `BenchError` or OSError."""
    points = []
    with ExitStack() as stack:
        gateway = stack.enter_context(serving(_tree(plan, stack)))
        rounds = list(product(range(plan.repetitions), plan.loads, WAYS))
        for repetition, load, way in tqdm(rounds, file=sys.stderr, unit="load"):
            outcomes = await _offer(plan, load, way, gateway, seed=repetition)
            points.append(_point(plan, way, load, outcomes, repetition))
            if not any(outcome.whole for outcome in outcomes) and load <= 1:
                raise BenchError(f"no answer at all; the gateway's output:\n{gateway.log_tail()}")
    report = Report(machine(), list(_figures(points)))
    report.remarks.append(
        f"capacity {plan.capacity:g} answers/s ({plan.slots} at once, {plan.answer:g} s each); "
        f"clients give up after {plan.patience:g} s"
    )
    return Found(report, points)


def _tree(plan: Plan, stack: ExitStack) -> dict[str, Any]:
    """A gateway's configuration, its two servers running."""

    def server(slots: int, seconds: float) -> str:
        port = free_port()
        command = module("app.bench.slots", port, slots, seconds, SPREAD, 1)
        stack.enter_context(running(command, port, cpu=None))
        return f"http://127.0.0.1:{port}"

    large = server(plan.slots, plan.answer)
    small = server(plan.slots * SMALL_SLOTS, plan.answer / SMALL_FASTER)
    queue = {"longest": LONGEST}
    models: dict[str, dict[str, Any]] = {
        "unlimited": {"backends": [large]},
        "queue": {"backends": [large], "queue": {"in_flight": plan.slots, **queue}},
        "small": {
            "backends": [small],
            "queue": {"in_flight": plan.slots * SMALL_SLOTS, **queue},
        },
    }
    return {
        "models": {name: {**model, "served_as": MODEL} for name, model in models.items()},
        "policies": {
            "overload": {"use": "overload", "target": "queue", "cheaper": "small", "wait": WAIT}
        },
        "default": "overload",
        "baseline": "queue",
        "health": {"timeout": 30},
    }


async def _offer(plan: Plan, load: float, way: str, gateway: Running, seed: int) -> list[Outcome]:
    """Requests by a Poisson process of this rate; the same times for every configuration."""
    rng, rate = random.Random(seed), load * plan.capacity
    warm = WARM * plan.patience
    request = _request(way, gateway.port)
    counted, clients = [], set[asyncio.Task[Outcome]]()
    due = began = time.perf_counter()
    while True:
        due += rng.expovariate(rate)
        if due > began + warm + plan.seconds:
            break
        await asyncio.sleep(max(due - time.perf_counter(), 0.0))
        task = asyncio.create_task(_ask(request, gateway.port, due, plan.patience))
        clients.add(task)
        task.add_done_callback(clients.discard)
        if due > began + warm:
            counted.append(task)
    outcomes = await asyncio.gather(*counted)
    await asyncio.gather(*clients)
    return outcomes


def _request(model: str, port: int) -> bytes:
    messages = [{"role": "user", "content": "What is 3 + 4?"}]
    body = json.dumps({"model": model, "messages": messages, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _ask(request: bytes, port: int, due: float, patience: float) -> Outcome:
    """One client: asks, and leaves if its answer is not whole `patience` seconds after it was due,
    however late this process came to sending it.
    """
    said, writer = b"", None
    try:
        async with asyncio.timeout(max(due + patience - time.perf_counter(), 0.0)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            said = await reader.read()
    except (TimeoutError, OSError):
        return Outcome()
    finally:
        if writer is not None:
            writer.transport.abort()
    wrote = MODELS.search(said)
    return Outcome(
        status=int(said[9:12] or 0),
        model=wrote.group(1).decode() if wrote else "",
        whole=DONE in said,
        seconds=time.perf_counter() - due,
    )


def _point(
    plan: Plan, way: str, load: float, outcomes: Sequence[Outcome], repetition: int
) -> Point:
    good = [outcome for outcome in outcomes if outcome.whole]
    everybody = max(len(outcomes), 1)
    return Point(
        way=way,
        load=load,
        offered=len(outcomes) / plan.seconds,
        good=len(good) / plan.seconds,
        shed=sum(outcome.status == 503 for outcome in outcomes) / everybody,
        late=sum(outcome.status != 503 and not outcome.whole for outcome in outcomes) / everybody,
        cheaper=sum(outcome.model == "small" for outcome in good) / everybody,
        seconds=median(outcome.seconds for outcome in good) if good else 0.0,
        repetition=repetition,
    )


def _figures(points: Sequence[Point]) -> Iterator[Figure]:
    """Goodput at three times the capacity, beside the most that the large model ever gave alone."""
    for way in WAYS:
        left = []
        for repetition in sorted({point.repetition for point in points}):
            own = [point for point in points if point.repetition == repetition]
            peak = max(point.good for point in own if point.way in ALONE)
            left += [p.good / peak for p in own if peak and (p.way, p.load) == (way, AT)]
        if left:
            yield summary(f"goodput at {AT:g}x / peak, {way}", left, "", TARGETS.get(way))


def _table(points: Sequence[Point]) -> str:
    """Medians over the repetitions."""
    lines = ["            load  offered/s   good/s   shed   late  cheaper  median s"]
    for way in WAYS:
        for load in sorted({point.load for point in points}):
            own = [point for point in points if (point.way, point.load) == (way, load)]
            of = {name: median(getattr(point, name) for point in own) for name in MEASURED}
            lines.append(
                f"{way:10}{load:>5g}x{of['offered']:>11.1f}{of['good']:>9.1f}{of['shed']:>7.0%}"
                f"{of['late']:>7.0%}{of['cheaper']:>9.0%}{of['seconds']:>10.2f}"
            )
    return "\n".join(lines)


MEASURED = ("offered", "good", "shed", "late", "cheaper", "seconds")
"""The figures of a point that the table shows."""
