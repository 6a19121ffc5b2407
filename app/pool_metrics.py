"""Gauges that nobody counts: what is looked at of the pools when somebody scrapes.

What each backend has in flight, its state, whether it is awake, and who waits: for a server to
wake, or for a place in line. Like `app.metrics` it knows no policy, and its labels come from closed
sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric

__all__ = ["PRIORITIES", "STATES", "BackendLoad", "PoolLoad", "pools_now"]

STATES = ("healthy", "unhealthy", "open", "probing")
"""What a backend's state may be; exactly one of them is 1 at a time."""
PRIORITIES = ("high", "low")
"""Of requests that wait."""


class BackendLoad(Protocol):
    """What is looked at of one backend when somebody scrapes."""

    @property
    def name(self) -> str:
        """Host and port."""

    @property
    def in_flight(self) -> int:
        """Calls that it is answering."""

    @property
    def state(self) -> str:
        """One of `STATES`."""

    @property
    def awake(self) -> bool:
        """Whether it would be sent a call at once, as far as sleep is concerned."""


class PoolLoad(Protocol):
    """What is looked at of one model's pool when somebody scrapes."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def backends(self) -> Iterable[BackendLoad]:
        """All of them, ready or not."""

    @property
    def waiting(self) -> int:
        """Calls that wait for one of them to wake."""

    def queued(self, *, low: bool) -> int:
        """Requests of high or of low priority that wait for a place."""


def pools_now(pools: Iterable[PoolLoad]) -> Iterator[Metric]:
    """Their gauges."""
    in_flight = GaugeMetricFamily(
        "tandem_in_flight",
        "Calls that a backend is answering now.",
        labels=("model", "backend"),
    )
    states = GaugeMetricFamily(
        "tandem_backend_state",
        "1 for the state that a backend is in now; open is its breaker.",
        labels=("model", "backend", "state"),
    )
    awake = GaugeMetricFamily(
        "tandem_backend_awake",
        "1 for a backend that can get calls, 0 while it sleeps, wakes or must make room.",
        labels=("model", "backend"),
    )
    waiting = GaugeMetricFamily(
        "tandem_waiting_for_wake",
        "Calls that wait for a backend of the model to wake.",
        labels=("model",),
    )
    queued = GaugeMetricFamily(
        "tandem_queued",
        "Requests that wait for a place with the model's backends.",
        labels=("model", "priority"),
    )
    for pool in pools:
        waiting.add_metric((pool.name,), pool.waiting)
        for low, priority in enumerate(PRIORITIES):
            queued.add_metric((pool.name, priority), pool.queued(low=bool(low)))
        for backend in pool.backends:
            in_flight.add_metric((pool.name, backend.name), backend.in_flight)
            awake.add_metric((pool.name, backend.name), backend.awake)
            for state in STATES:
                states.add_metric((pool.name, backend.name, state), backend.state == state)
    yield in_flight
    yield states
    yield awake
    yield waiting
    yield queued
