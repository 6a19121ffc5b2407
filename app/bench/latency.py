"""Added latency at half load: what waiting in the gateway costs a client.

An open loop at half of the rate that the gateway can serve, once through it and once straight to
the backend, turn by turn. The difference of their percentiles is what the gateway adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from app.bench.figures import Figure, Target, summary
from app.bench.load import Plan, Result
from app.bench.processes import load
from app.bench.throughput import Subject

__all__ = ["measure"]

CONNECTIONS = 64
"""Open connections: more than are ever busy at half load, so that none has to be waited for."""

P99 = Target(5.0, at_least=False)
"""Milliseconds that the gateway may add to the 99th percentile."""


def measure(
    subjects: Sequence[Subject],
    rate: float,
    turns: tuple[int, float],
    cpu: int | None,
    step: Callable[[str], None],
) -> Iterator[Figure]:
    """What each of `subjects` adds to the first, the backend itself, at `rate` requests/s.

    `turns` is how often each is loaded, and for how many seconds.
    """
    repetitions, seconds = turns
    results: dict[str, list[Result]] = {subject.name: [] for subject in subjects}
    for _ in range(repetitions):
        for subject in subjects:
            plan = Plan(
                subject.process.port, CONNECTIONS, seconds, rate=rate, key=subject.key, warmup=1.0
            )
            results[subject.name].append(load(plan, subject.process, cpu).result)
            step(f"{subject.name}: latency")
    alone = results.pop(subjects[0].name)
    for name, found in results.items():
        added50 = [with_it.p50 - without.p50 for with_it, without in zip(found, alone, strict=True)]
        added99 = [with_it.p99 - without.p99 for with_it, without in zip(found, alone, strict=True)]
        note = f"at {rate:,.0f} requests/s"
        yield summary(f"{name}: added p50", added50, "ms", note=note)
        yield summary(f"{name}: added p99", added99, "ms", P99 if name == "tandem" else None)
