"""Gauges about the processes that act as one, and the store that they share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric

__all__ = ["Known", "members_now"]


class Known(Protocol):
    """What one process knows of all."""

    @property
    def kind(self) -> str:
        """The kind of store."""

    @property
    def trouble(self) -> str:
        """Why it cannot be reached; empty if it can."""

    @property
    def alive(self) -> int:
        """How many there are."""

    @property
    def lagging(self) -> int:
        """How many of them do not serve the newest revision."""


def members_now(member: Known) -> Iterator[Metric]:
    """What this one knows of all of them, by its last exchange."""
    up = GaugeMetricFamily(
        "tandem_store_up", "1 if the store that processes share can be reached.", labels=("kind",)
    )
    up.add_metric((member.kind,), not member.trouble)
    alive = GaugeMetricFamily("tandem_members", "Processes that act as one, this one included.")
    alive.add_metric((), member.alive)
    behind = GaugeMetricFamily(
        "tandem_members_behind", "Those of them that do not serve the newest revision."
    )
    behind.add_metric((), member.lagging)
    yield up
    yield alive
    yield behind
