"""Samples over time: what a window tells, how far back, and that memory is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import pytest
from prometheus_client.core import CounterMetricFamily, Metric

from app.metrics import Metrics
from app.together import Together
from app.ui.history import MOST_COLUMNS, TIERS, WANTED, History
from tests.app.observations import ENDED, attempt

COST = "tandem_cost_usd_total"
FIRST = "tandem_time_to_first_token_seconds_bucket"


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class Watched:
    """A history of real metrics, and a clock to move."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics(list, "1")
        self.history = History(Together(self.metrics, None).families, self.clock)

    async def later(self, seconds: float) -> None:
        """As the chore does it."""
        for _ in range(round(seconds / 5)):
            self.clock.at += 5
            await self.history.remember()

    def spend(self, usd: float, policy: str = "auto", model: str = "large") -> None:
        told = attempt(model, cost=usd)
        self.metrics(replace(ENDED, policy=policy, attempts=(told,)))


@pytest.fixture
def watched() -> Watched:
    return Watched()


async def test_a_window_tells_what_has_risen_in_it(watched: Watched) -> None:
    watched.spend(1.0)
    await watched.later(400)
    watched.spend(2.0, model="small")
    watched.spend(4.0, policy="other")
    watched.clock.at += 3
    window = await watched.history.window(300)
    assert window.seconds == pytest.approx(300, abs=2.5)
    assert window.rise(COST) == 6.0
    assert window.rise(COST, model="small") == 2.0
    assert window.by(COST, "policy") == {"auto": 2.0, "other": 4.0}
    assert window.age == 403
    whole = watched.history.whole(window)
    assert whole.rise(COST) == 7.0
    assert whole.seconds == 403


async def test_rates_are_per_second_of_each_step(watched: Watched) -> None:
    await watched.later(10)
    watched.spend(1.0)
    await watched.later(5)
    watched.spend(0.5)
    watched.clock.at += 4
    window = await watched.history.window(300)
    assert window.steps == [5, 5, 5, 4]
    assert window.rates(COST) == [0, 0, 0.2, 0.125]


async def test_a_step_that_has_just_begun_is_added_to_the_one_before(watched: Watched) -> None:
    await watched.later(10)
    watched.clock.at += 1
    assert (await watched.history.window(300)).steps == [5, 6]


async def test_at_its_beginning_everything_lies_in_the_window(watched: Watched) -> None:
    watched.spend(1.0)
    window = await watched.history.window(300)
    assert window.rise(COST) == 1.0
    watched.clock.at += 0.5
    assert (await watched.history.window(300)).rise(COST) == 1.0


async def test_each_window_has_steps_enough(watched: Watched) -> None:
    await watched.later(22_000)
    for seconds in (300, 3600, 21_600):
        window = await watched.history.window(seconds)
        assert 59 <= len(window.steps) <= 61
        assert window.seconds == pytest.approx(seconds, rel=0.02)


async def test_quantiles_are_those_of_the_window(watched: Watched) -> None:
    def answer(first: float, policy: str = "auto") -> None:
        watched.metrics(replace(ENDED, policy=policy, stream=True, first_byte=first, gaps=()))

    for _ in range(10):
        answer(9.0)
    await watched.later(310)
    for _ in range(8):
        answer(0.3)  # between 0.25 and 0.5
    answer(400.0, "other")
    answer(400.0, "other")  # above the last bound
    window = await watched.history.window(300)
    assert window.quantile(FIRST, 0.5) == pytest.approx(0.25 + 0.25 * 5 / 8)
    assert window.quantile(FIRST, 0.95) == 320.0
    assert window.quantile(FIRST, 0.5, policy="other") == 320.0
    assert window.quantile(FIRST, 0.5, policy="nobody") is None
    assert window.quantiles(FIRST, 0.5)[:-1] == [None] * (len(window.steps) - 1)


async def test_what_falls_has_begun_anew() -> None:
    counts = [5.0, 1.0, 2.0]

    async def families() -> Iterable[Metric]:
        family = CounterMetricFamily(COST, "", labels=("model", "policy"))
        family.add_metric(("m", "p"), counts.pop(0))
        return [family]

    clock = Clock()
    history = History(families, clock)
    for _ in range(2):
        clock.at += 5
        await history.remember()
    clock.at += 5
    window = await history.window(300)
    assert window.rates(COST) == [1.0, 0, 0.2]


async def test_what_others_counted_before_is_no_rise() -> None:
    async def families() -> Iterable[Metric]:
        family = CounterMetricFamily(COST, "", labels=("model", "policy"))
        family.add_metric(("m", "p"), 5.0)
        return [family]

    clock = Clock()
    history = History(families, clock)
    keeping = asyncio.create_task(history.keep())
    await asyncio.sleep(0)
    clock.at += 5
    window = await history.window(300)
    assert window.rise(COST) == 0.0
    assert history.whole(window).rise(COST) == 5.0
    keeping.cancel()


async def test_labels_that_nobody_asks_for_are_summed_over() -> None:
    async def families() -> Iterable[Metric]:
        several = CounterMetricFamily(COST, "", labels=("worker", "policy", "model"))
        several.add_metric(("1", "p", "m"), 1.0)
        several.add_metric(("2", "p", "m"), 2.0)
        return [several]

    history = History(families, Clock())
    assert (await history.window(300)).by(COST, "model") == {"m": 3.0}


async def test_memory_is_bounded() -> None:
    async def families() -> Iterable[Metric]:
        family = CounterMetricFamily(COST, "", labels=("model", "policy"))
        for number in range(MOST_COLUMNS + 100):
            family.add_metric((f"m{number}", "p"), 1.0)
        return [family]

    clock = Clock()
    history = History(families, clock)
    for _ in range(3):
        clock.at += 5
        await history.remember()
    assert len(history._tiers[0][-1].values) == MOST_COLUMNS
    assert [tier.maxlen for tier in history._tiers] == [steps + 1 for _, steps in TIERS]


async def test_everything_that_is_wanted_is_exported() -> None:
    metrics = Metrics(list, "1")
    metrics(replace(ENDED, stream=True, first_byte=0.1))
    exported = {
        name
        for family in metrics.collect()
        for name in (f"{family.name}_total", f"{family.name}_bucket", family.name)
    }
    assert WANTED.keys() <= exported
