"""A thousand slow streams at once: what they hold in memory, and whether all of them are let go.

The load hangs up in the middle of every stream, the hardest end of all: afterwards not one call may
be counted as in flight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx

from app.bench.figures import Figure, Target, summary
from app.bench.gateway import KEY, Gateway
from app.bench.load import Plan
from app.bench.processes import BenchError, finish, loading

__all__ = ["INTERVAL_MS", "STREAMS", "measure"]

STREAMS = 1000
INTERVAL_MS = 200
"""Between two events: five tokens a second and stream, so that none ends while it is watched."""

IN_FLIGHT = "tandem_in_flight"
"""The gauge of calls to backends, as the gateway itself counts them."""

WATCHED_SECONDS = 4.0
"""How long the memory is watched, once all streams run."""

EVERY = 0.2
"""Seconds between two looks at the memory."""

RELEASE_SECONDS = 5.0
"""How long the last call may take to be noticed as gone; 100 ms are promised, per stream."""

OVER_IDLE = Target(150.0, at_least=False)
"""MiB."""


def measure(
    tandem: Gateway, rounds: int, cpu: int | None, step: Callable[[str], None]
) -> Iterator[Figure]:
    """Open the streams, watch, hang up; `rounds` times."""
    grown, left = [], []
    idle = _resident(tandem)
    with httpx.Client() as client:
        for _ in range(rounds):
            grown.append(_peak(tandem, client, cpu) - idle)
            left.append(_in_flight_at_last(tandem, client))
            step("slow streams")
    yield summary(f"{STREAMS} slow streams: memory over idle", grown, "MiB", OVER_IDLE)
    drift = "guards left after all clients hung up"
    yield summary(drift, left, "calls", Target(0, at_least=False))


def _peak(tandem: Gateway, client: httpx.Client, cpu: int | None) -> float:
    """Most memory in MiB while all the streams run."""
    plan = Plan(tandem.process.port, STREAMS, WATCHED_SECONDS, stream=True, warmup=3.0, key=KEY)
    peak = busy = 0.0
    with loading(plan, cpu) as process:
        end = time.monotonic() + WATCHED_SECONDS - EVERY
        while time.monotonic() < end:
            peak = max(peak, _resident(tandem))
            busy = max(busy, tandem.metric(IN_FLIGHT, client))
            time.sleep(EVERY)
        result = finish(process)
    if result.errors or busy < STREAMS:
        raise BenchError(
            f"{busy:.0f} of {STREAMS} slow streams ran and {result.errors} failed: "
            f"{result.complaint}\nThe gateway's output:\n{tandem.process.log_tail()}"
        )
    return peak


def _resident(tandem: Gateway) -> float:
    resident = tandem.process.resident_mib()
    if resident is None:
        raise BenchError("the gateway's memory cannot be read: it is gone")
    return resident


def _in_flight_at_last(tandem: Gateway, client: httpx.Client) -> float:
    deadline = time.monotonic() + RELEASE_SECONDS
    while (busy := tandem.metric(IN_FLIGHT, client)) and time.monotonic() < deadline:
        time.sleep(EVERY)
    return busy
