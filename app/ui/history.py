"""The metrics over time: samples of what is exported, a few seconds apart, in bounded memory.

It takes families as Prometheus' library has them, from whoever gives them (`Families`): the one
place where the numbers of several processes can be joined. Of each family only the labels in
`WANTED` are kept and all others summed over, so a sample is one short array of numbers.

Samples are kept in tiers, each a ring: the last five minutes finely, the last hours coarsely. What
is asked of it is a `Window`, whose figures are differences, as a counter's are in Prometheus.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from prometheus_client.core import Metric

__all__ = ["WANTED", "Families", "History", "Window"]

Families: TypeAlias = Callable[[], Awaitable[Iterable[Metric]]]
"""Gives all families as they stand, whoever counts them."""

Key: TypeAlias = tuple[str, ...]
"""A sample's name, then the values of its labels in the order of `WANTED`."""

Columns: TypeAlias = Mapping[str, Sequence[tuple[Key, int]]]
"""By a sample's name: its keys, and where in a sample their values are."""

Values: TypeAlias = npt.NDArray[np.float64]
NOTHING: Values = np.zeros(0)

WANTED: Mapping[str, tuple[str, ...]] = {
    "tandem_requests_total": ("policy",),
    "tandem_errors_total": ("policy", "fault"),
    "tandem_refused_total": ("fault", "code"),
    "tandem_reasons_total": ("policy", "reason"),
    "tandem_handoffs_total": ("policy",),
    "tandem_tokens_total": ("model", "direction"),
    "tandem_answer_tokens_total": ("model", "policy"),
    "tandem_cost_usd_total": ("model", "policy"),
    "tandem_baseline_usd_total": ("policy",),
    "tandem_attempts_total": ("model", "backend", "outcome"),
    "tandem_in_flight": ("model", "backend"),
    "tandem_time_to_first_token_seconds_bucket": ("policy", "le"),
    "tandem_request_seconds_bucket": ("policy", "le"),
    "tandem_idealised_request_seconds_bucket": ("policy", "le"),
    "tandem_overhead_seconds_bucket": ("le",),
}
"""Samples that the pages show, and the labels that they tell apart."""

TIERS = ((5.0, 60), (60.0, 60), (360.0, 60))
"""Seconds between samples, and how many steps: five minutes, an hour, six hours."""
MOST_COLUMNS = 5_000
"""Label sets that are kept: 40 KB a sample at most. A fleet of 20 policies and 10 models has 1,000;
what comes after is not shown."""


class History:
    """Samples `families` for ever (`keep`) and gives windows of them. `now` is monotonic seconds.

    It can be asked from the first moment on.
    """

    def __init__(self, families: Families, now: Callable[[], float] = time.monotonic) -> None:
        self._families = families
        self._now = now
        self._columns: dict[Key, int] = {}
        self._named: dict[str, list[tuple[Key, int]]] = {name: [] for name in WANTED}
        self.began = now()
        first = Point(self.began, NOTHING)
        self._tiers = [deque([first], maxlen=steps + 1) for _, steps in TIERS]

    async def keep(self) -> None:
        """Sample for ever. The app starts it as a task.

        What others have counted before this process began is no rise of its first minutes.
        """
        first = await self._sample()
        for tier in self._tiers:
            tier[0] = first
        while True:
            await asyncio.sleep(TIERS[0][0])
            await self.remember()

    async def remember(self) -> None:
        """Take a sample, and keep it wherever one is due."""
        point = await self._sample()
        for (every, _), tier in zip(TIERS, self._tiers, strict=True):
            if point.at - tier[-1].at > every - TIERS[0][0] / 2:
                tier.append(point)

    async def _sample(self) -> Point:
        totals: dict[Key, float] = {}
        for family in await self._families():
            for sample in family.samples:
                if (labels := WANTED.get(sample.name)) is not None:
                    key = (sample.name, *(sample.labels.get(label, "") for label in labels))
                    totals[key] = totals.get(key, 0.0) + sample.value
        return Point(self._now(), self._row(totals))

    async def window(self, seconds: float) -> Window:
        """The last so many seconds, as far back as samples go, up to this moment."""
        last = await self._sample()
        longs = [at for at, (every, steps) in enumerate(TIERS) if every * steps >= seconds]
        at = min(longs, default=len(TIERS) - 1)
        every, since = TIERS[at][0], last.at - seconds - TIERS[0][0] / 2
        before = [point for point in self._tiers[at] if point.at < last.at]
        points = [point for point in before if point.at >= since] or before[-1:]
        if len(points) > 1 and last.at - points[-1].at < every / 2:
            points.pop()  # so short a step would tell more of chance than of traffic
        points = points or [Point(last.at - every, NOTHING)]
        return self._window([*points, last])

    def whole(self, window: Window) -> Window:
        """All the time since the process began up to the end of this window, in one step."""
        last = Point(window.times[-1], window.values[-1])
        return self._window([Point(self.began, NOTHING), last])

    def _window(self, points: Sequence[Point]) -> Window:
        values = np.zeros((len(points), len(points[-1].values)))
        for row, point in zip(values, points, strict=True):
            row[: len(point.values)] = point.values  # what was not known then was 0
        times = [point.at for point in points]
        risen = np.maximum(values[-1] - values[0], 0.0).tolist()
        return Window(self._named, times, values, risen, times[-1] - self.began)

    def _row(self, totals: Mapping[Key, float]) -> Values:
        for key in totals:
            if key not in self._columns and len(self._columns) < MOST_COLUMNS:
                self._columns[key] = at = len(self._columns)
                self._named[key[0]].append((key, at))
        row = np.zeros(len(self._columns))
        for key, value in totals.items():
            if (column := self._columns.get(key)) is not None:
                row[column] = value
        return row


@dataclass(frozen=True, slots=True)
class Point:
    """One sample: when (monotonic seconds), and a value for each column that was known then."""

    at: float
    values: Values


@dataclass(frozen=True, slots=True)
class Window:
    """Samples in the order of time, two at least: when each was taken, and a row of values; and how
    much each value has `risen`. `age` is how long the process has run, in seconds.

    Labels are narrowed down by `where`: `rise("tandem_errors_total", fault="backend")`. What falls
    has begun anew, elsewhere, and counts as if it had stood still.
    """

    columns: Columns
    times: Sequence[float]
    values: Values
    risen: Sequence[float]
    age: float

    @property
    def seconds(self) -> float:
        """From the first sample to the last."""
        return self.times[-1] - self.times[0]

    @property
    def steps(self) -> Sequence[float]:
        """The seconds from each sample to the next."""
        return [later - sooner for sooner, later in pairwise(self.times)]

    def now(self, name: str, **where: str) -> float:
        """A gauge as it stands."""
        return float(self.values[-1, [at for _, at in self._matching(name, where)]].sum())

    def rise(self, name: str, **where: str) -> float:
        """How much a counter has risen in the window."""
        return sum(self.risen[at] for _, at in self._matching(name, where))

    def by(self, name: str, label: str, **where: str) -> dict[str, float]:
        """The same for each value of this label; those that have not risen are left out."""
        place = WANTED[name].index(label) + 1
        found: dict[str, float] = {}
        for key, at in self._matching(name, where):
            if self.risen[at]:
                found[key[place]] = found.get(key[place], 0.0) + self.risen[at]
        return found

    def rates(self, name: str, **where: str) -> list[float]:
        """How fast it rose in each step, per second."""
        risen = self._steps([at for _, at in self._matching(name, where)]).sum(axis=1)
        return [float(each) for each in risen / np.array(self.steps)]

    def quantile(self, name: str, share: float, **where: str) -> float | None:
        """The value that this share of a histogram's observations lies below; None if there are
        none. Known to within a bucket, as Prometheus' own is.
        """
        return self._quantile(self._matching(name, where), share)

    def quantile_by(self, name: str, share: float, label: str) -> dict[str, float]:
        """The same for each value of this label that has any."""
        place = WANTED[name].index(label) + 1
        several: dict[str, list[tuple[Key, int]]] = {}
        for key, at in self._matching(name, {}):
            several.setdefault(key[place], []).append((key, at))
        each = {value: self._quantile(columns, share) for value, columns in several.items()}
        return {value: known for value, known in each.items() if known is not None}

    def quantiles(self, name: str, share: float, **where: str) -> list[float | None]:
        """The same for each step."""
        buckets = _buckets(self._matching(name, where))
        bounds = [bound for bound, _ in buckets]
        fallen = [self._steps(columns).sum(axis=1) for _, columns in buckets]
        each = zip(*fallen, strict=True) if fallen else ([] for _ in self.steps)
        return [_within(list(zip(bounds, step, strict=True)), share) for step in each]

    def _quantile(self, matching: Iterable[tuple[Key, int]], share: float) -> float | None:
        buckets = _buckets(matching)
        told = [(bound, sum(self.risen[at] for at in columns)) for bound, columns in buckets]
        return _within(told, share)

    def _matching(self, name: str, where: Mapping[str, str]) -> Iterator[tuple[Key, int]]:
        labels = WANTED[name]
        wanted = [(labels.index(label) + 1, value) for label, value in where.items()]
        for key, at in self.columns[name]:
            if at < self.values.shape[1] and all(key[place] == value for place, value in wanted):
                yield key, at

    def _steps(self, columns: list[int]) -> Values:
        """How much each of these rose from each sample to the next, a row a step."""
        return np.maximum(np.diff(self.values[:, columns], axis=0), 0.0)


def _buckets(matching: Iterable[tuple[Key, int]]) -> Sequence[tuple[float, list[int]]]:
    """A histogram's columns by the bound of their bucket, in ascending order."""
    found: dict[float, list[int]] = {}
    for key, at in matching:
        found.setdefault(float(key[-1]), []).append(at)
    return sorted(found.items())


def _within(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Interpolated inside the bucket that it falls into; the last bound where that has no end."""
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return None
    wanted, floor, below = share * total, 0.0, 0.0
    for bound, upto in buckets:
        if upto >= wanted:
            if bound == inf:
                return floor
            inside = upto - below
            return float(floor + (bound - floor) * ((wanted - below) / inside if inside else 1.0))
        floor, below = bound, upto
    return floor
