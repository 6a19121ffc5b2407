"""Metric families that cost next to nothing to update: a dict of running totals per label set.

prometheus_client's own counters take a lock and look up a child on each update, 1.5 us a piece,
and a stream of a thousand pieces would pay that a thousand times. All of Tandem's updates come
from one event loop, so no lock is needed: these families add to plain dicts, and build
prometheus_client's exposition objects only when somebody scrapes. Updating and scraping must
therefore happen on the loop's thread.

A family holds a bounded number of label sets. They come from the config (names of models, policies,
backends) and from closed enums, so the bound is never met unless something is wrong; what comes
after it is counted under `_other`, and memory stays bounded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

__all__ = [
    "MAX_LABEL_SETS", "OTHER", "SEPARATOR", "Counts", "Histogram", "Labels", "Told", "split",
    "joined", "summed",
]  # fmt: skip

Labels: TypeAlias = tuple[str, ...]

MAX_LABEL_SETS = 2000
"""Label sets per family. 20 policies x 10 models x 3 directions are 600; Prometheus' own advice is
to stay below thousands per metric."""

OTHER = "_other"

SEPARATOR = "\x1f"
"""Between the values of labels: no configured name and no enum holds it."""

Told: TypeAlias = dict[str, list[float]]
"""What a process tells others of one family: numbers by the values of the labels."""

T = TypeVar("T")


def summed(own: Told, others: Iterable[Told]) -> Told:
    """The sums, number by number. What has another shape is of another version, and left out."""
    sums = dict(own)
    for told in others:
        for labels, numbers in told.items():
            known = sums.get(labels)
            if known is None:
                sums[labels] = numbers
            elif len(known) == len(numbers):
                sums[labels] = [a + b for a, b in zip(known, numbers, strict=True)]
    return sums


def split(labels: str) -> list[str]:
    """The values of labels that were joined."""
    return labels.split(SEPARATOR) if labels else []


def _bounded(labels: Labels, known: Mapping[Labels, T]) -> Labels:
    """`labels`, or the label set that counts what no longer fits."""
    return labels if len(known) < MAX_LABEL_SETS else (OTHER,) * len(labels)


class Counts:
    """A counter. `name` ends in `_total`."""

    def __init__(self, name: str, labels: Labels, about: str) -> None:
        self.name = name
        self._labels = labels
        self._about = about
        self._totals: dict[Labels, float] = {}

    def add(self, labels: Labels, amount: float = 1.0) -> None:
        """Count `amount` (not negative) more for this label set."""
        try:
            self._totals[labels] += amount
        except KeyError:
            labels = _bounded(labels, self._totals)
            self._totals[labels] = self._totals.get(labels, 0.0) + amount

    def told(self) -> Told:
        """The totals, for another process."""
        return {SEPARATOR.join(labels): [total] for labels, total in self._totals.items()}

    def collect(self, others: Iterable[Told] = ()) -> CounterMetricFamily:
        """The family as prometheus_client exposes it, together with what others have told."""
        family = CounterMetricFamily(self.name, self._about, labels=self._labels)
        for labels, (total,) in summed(self.told(), others).items():
            family.add_metric(split(labels), total)
        return family


@dataclass(slots=True)
class _Series:
    """One label set of a histogram: how many values fell into each bucket, and their sum."""

    counts: list[int]
    sum: float = field(default=0.0)


class Histogram:
    """A histogram over `bounds`, the buckets' upper bounds in ascending order (without +Inf)."""

    def __init__(self, name: str, labels: Labels, about: str, bounds: Sequence[float]) -> None:
        self.name = name
        self._labels = labels
        self._about = about
        self._bounds = tuple(bounds)
        self._series: dict[Labels, _Series] = {}

    def observe(self, labels: Labels, value: float) -> None:
        """Count one value."""
        series = self._series.get(labels) or self._open(labels)
        series.sum += value
        series.counts[bisect_left(self._bounds, value)] += 1

    def observe_all(self, labels: Labels, values: Sequence[float]) -> None:
        """Count many values at once: sorted first, so that each bound is looked up only once."""
        series = self._series.get(labels) or self._open(labels)
        series.sum += sum(values)
        counts = series.counts
        ordered = sorted(values)
        below = 0
        for i, bound in enumerate(self._bounds):
            if below == len(ordered):
                return
            upto = bisect_right(ordered, bound, below)
            counts[i] += upto - below
            below = upto
        counts[-1] += len(ordered) - below

    def told(self) -> Told:
        """The sum and the counts of each label set, for another process."""
        return {
            SEPARATOR.join(labels): [series.sum, *series.counts]
            for labels, series in self._series.items()
        }

    def collect(self, others: Iterable[Told] = ()) -> HistogramMetricFamily:
        """The family as prometheus_client exposes it, its buckets cumulative, together with what
        others have told.
        """
        family = HistogramMetricFamily(self.name, self._about, labels=self._labels)
        edges = [*map(floatToGoString, self._bounds), "+Inf"]
        for labels, (total, *counts) in summed(self.told(), others).items():
            below = accumulate(counts)
            family.add_metric(split(labels), list(zip(edges, below, strict=True)), total)
        return family

    def _open(self, labels: Labels) -> _Series:
        labels = _bounded(labels, self._series)
        empty = _Series([0] * (len(self._bounds) + 1))
        return self._series.setdefault(labels, empty)


def joined(gauge: Metric, told: Sequence[Told], how: Callable[[Iterable[float]], float]) -> None:
    """Join what others have told to a gauge's samples."""
    for number, sample in enumerate(gauge.samples):
        labels = SEPARATOR.join(sample.labels.values())
        values = [sample.value, *(each[labels][0] for each in told if each.get(labels))]
        gauge.samples[number] = sample._replace(value=how(values))
