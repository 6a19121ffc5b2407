"""What the listeners and the key check cost on the hot path, in microseconds.

Run it as `python -m tests.bench.listeners`. Each figure is the best of five runs, so that another
process on the machine disturbs it little; the figures in the heads of app/metrics.py, app/log.py
and app/keys.py, and those in docs/learning-from-traffic.md and docs/tracing.md, come from here.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram

from app.decisions import Decisions, Served
from app.keys import Admitted, Keys, new_key
from app.log import CAPACITY, Log
from app.metrics import GAP, Metrics
from app.state.memory import MemoryStore
from app.tracing.export import Exports
from app.tracing.tracing import Tracing
from policies import TABLE
from router.config import Form, parse
from router.observe import AttemptEnded, RequestEnded
from router.runtime import Runtime, build
from router.sections import DecisionsConfig, TracingConfig
from router.steps import Surface, Usage
from router.wire import parse as read
from tests.running import config

REPEATS = 5


def microseconds(function: Callable[[], object], number: int = 5000) -> float:
    """Best time of one call."""
    return min(timeit.repeat(function, number=number, repeat=REPEATS)) / number * 1e6


def request(attempts: int, gaps: int) -> RequestEnded:
    """A finished stream of so many attempts and pieces, with gaps around 30 ms."""
    rng = random.Random(0)
    attempt = AttemptEnded("large", "127.0.0.1:8102", None, 1.0, 0.1, Usage(100, 50), True, 1e-4)
    return RequestEnded(
        id="req-1",
        surface=Surface.CHAT,
        policy="auto",
        revision=1,
        key="alice",
        stream=True,
        status=200,
        blame=None,
        message="",
        reason="draft_refused",
        detail="",
        attempts=(attempt,) * attempts,
        first_byte=0.2,
        seconds=1.2,
        upstream=1.1995,
        gaps=tuple(rng.lognormvariate(-3.5, 0.5) for _ in range(gaps)),
        cost=1e-4,
        baseline=2e-4,
    )


def with_prometheus_client(ended: RequestEnded) -> Callable[[], None]:
    """The same updates by prometheus_client's own counters, for comparison."""
    registry = CollectorRegistry()
    counter = Counter("c", "c", ["a", "b"], registry=registry)
    histogram = Histogram("h", "h", ["policy"], buckets=GAP, registry=registry)

    def update() -> None:
        for _ in range(3 + 6 * len(ended.attempts)):
            counter.labels("a", "b").inc()
        for _ in range(3):
            histogram.labels("auto").observe(1.0)
        observe = histogram.labels("auto").observe
        for gap in ended.gaps:
            observe(gap)

    return update


def tell(what: str, figure: float) -> None:
    print(f"{what:<48}{figure:>10.3f} us")


def metrics_figures() -> None:
    metrics = Metrics(lambda: (), "0")
    few, many = request(3, 0), request(3, 2000)
    plain = replace(request(1, 0), stream=False, reason="")
    base = microseconds(lambda: metrics(few))
    gap = (microseconds(lambda: metrics(many), 200) - base) / 2000
    theirs = microseconds(with_prometheus_client(few), 1000)
    theirs_gap = (microseconds(with_prometheus_client(many), 20) - theirs) / 2000
    one = microseconds(lambda: metrics(plain))
    tell("metrics: request of 1 attempt, no stream", one)
    tell("metrics: stream of 3 attempts", base)
    tell("metrics: each gap", gap)
    tell("prometheus_client: the same stream", theirs)
    tell("prometheus_client: each gap", theirs_gap)
    tell("metrics: one scrape of this", microseconds(metrics.render, 50))


def log_figures(folder: Path) -> None:
    log = Log(str(folder / "log.jsonl"))
    ended = request(3, 64)
    few = CAPACITY // 10  # all repeats together must fit into the queue
    tell("log: one request", microseconds(lambda: log(ended), few))
    log.close()


def key_figures(folder: Path) -> None:
    secret, entry = new_key("alice")
    never_met = 10**9
    limits = {"requests_per_minute": never_met, "tokens_per_minute": never_met, "spend_usd": 1e9}
    file = folder / "keys.yaml"
    file.write_text("keys:\n" + entry.model_copy(update=limits).yaml())
    keys = Keys(file, MemoryStore(), "alone")
    padding = [(f"x-header-{i}".encode(), b"value") for i in range(8)]
    headers = [*padding, (b"authorization", f"Bearer {secret}".encode())]
    ended = request(3, 0)

    async def admit() -> None:
        admitted = await keys.admit(headers)
        assert isinstance(admitted, Admitted)
        admitted.leave()

    async def many(number: int) -> float:
        begin = time.perf_counter()
        for _ in range(number):
            await admit()
        return (time.perf_counter() - begin) / number * 1e6

    tell("keys: admit and leave", asyncio.run(many(20_000)))
    tell("keys: charge", microseconds(lambda: keys(ended)))


def tracing_figures() -> None:
    """What a request pays on its way, and what the thread does once it is over."""
    os.environ |= {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    body = {"model": "auto", "messages": [{"role": "user", "content": "x" * 960}], "seed": 1}
    headers = {"traceparent": f"00-{1:032x}-{1:016x}-01"}
    asked = read(Surface.CHAT, json.dumps(body).encode(), headers, "auto", random.Random(0))
    rng = random.Random(0)
    for sampler in ("parentbased_always_on", "always_off"):
        os.environ["OTEL_TRACES_SAMPLER"] = sampler
        it = Tracing(TracingConfig(), Exports(), rng, interval=3600, capacity=10**9)
        trace = it.begin(asked)
        ended = replace(request(3, 64), trace=trace)
        ended = replace(ended, attempts=tuple(replace(a, span=7) for a in ended.attempts))
        told = f"tracing ({sampler}): "
        tell(told + "begin", microseconds(lambda: it.begin(asked)))  # noqa: B023
        tell(told + "attempt", microseconds(lambda: trace.headers(trace.child(1, rng))))  # noqa: B023
        tell(told + "end", microseconds(lambda: it(ended)))  # noqa: B023
        it._queue.clear()

        def in_the_thread() -> None:
            it(ended)  # noqa: B023
            it._tell()  # noqa: B023

        tell(told + "thread", microseconds(in_the_thread, 500))
        it.close()


def learning(**sections: object) -> Runtime:
    """A Runtime whose policy draws, with one in twenty requests for exploring."""
    split = {"use": "split", "weights": {"small": 95, "large": 5}, "sticky": False}
    models = {"small": "http://127.0.0.1:1", "large": "http://127.0.0.1:2"}
    tree = config(models, policies={"auto": split, "next": split}, **sections)
    return build(parse(json.dumps(tree), TABLE, form=Form.JSON), TABLE, 1)


async def decision_figures(folder: Path) -> None:
    section = DecisionsConfig(file=str(folder / "decisions.jsonl"))
    plain, logs = learning(), learning(decisions=section.model_dump())
    both = learning(decisions=section.model_dump(), shadow="next")
    body = {"model": "auto", "messages": [{"role": "user", "content": "x" * 960}]}
    asked = read(Surface.CHAT, json.dumps(body).encode(), {}, "auto", random.Random(0))
    ended = replace(request(1, 64), id=asked.id, delivered=Usage(100, 50))

    def hand_over(to: Decisions, under: Runtime) -> None:
        if under.learns:
            to(under, under.snapshot(), asked, ended)

    few = CAPACITY // 10
    for what, under in (("neither", plain), ("the log", logs), ("log and shadow", both)):
        book = Decisions(section, lambda _: None, interval=3600)
        tell(f"decisions: {what}", microseconds(lambda: hand_over(book, under), few))  # noqa: B023
        if book._queue and isinstance(entry := book._queue[0], Served):
            tell(f"decisions: {what}, in the thread", microseconds(lambda: book._settle(entry)))  # noqa: B023
        book._queue.clear()
        book.close()
    book = Decisions(section, lambda _: None, interval=0.001)
    tell("loop: waking late by, nothing else going on", await lateness(lambda: True))

    def keep_busy() -> bool:
        while len(book._queue) < few:
            hand_over(book, both)
        return True

    tell("loop: the same while the thread is busy", await lateness(keep_busy))
    book.close()


async def lateness(keep_up: Callable[[], bool], times: int = 300) -> float:
    """The 99th percentile of how late the loop wakes from a millisecond's sleep, microseconds."""
    found: list[float] = []
    for _ in range(REPEATS):
        late: list[float] = []
        while len(late) < times and keep_up():
            due = time.monotonic() + 0.001
            await asyncio.sleep(0.001)
            late.append(time.monotonic() - due)
        found.append(statistics.quantiles(late, n=100)[-1] * 1e6)
    return min(found)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        metrics_figures()
        log_figures(Path(name))
        key_figures(Path(name))
        tracing_figures()
        asyncio.run(decision_figures(Path(name)))


if __name__ == "__main__":
    main()
