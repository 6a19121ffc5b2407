"""A backend's live state: load as a guard, latency as a peak that fades, blame where it is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.backend import DECAY, Backend, PeakEwma
from router.breaker import BreakerSettings
from router.faults import Blame


class Clock:
    """Virtual time in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def backend(clock: Clock | None = None) -> Backend:
    rules = BreakerSettings(failures=2, wait=2.0, longest=60.0)
    return Backend("http://10.0.0.1:8000/v", rules, clock or Clock())


def test_its_name_is_its_host_and_port() -> None:
    assert backend().name == "10.0.0.1:8000"
    assert repr(backend()) == "Backend(10.0.0.1:8000, probing, in_flight=0)"


@given(st.lists(st.sampled_from([None, *Blame])))
def test_every_guard_counts_out_once(blames: list[Blame | None]) -> None:
    one = backend()
    guards = [one.enter() for _ in blames]
    assert one.in_flight == len(blames)
    for guard, blame in zip(guards, blames, strict=True):
        guard.leave(blame)
        guard.leave(Blame.BACKEND)
    assert one.in_flight == 0


@pytest.mark.parametrize("blame", [None, Blame.CLIENT, Blame.BUSY, Blame.GATEWAY, Blame.GONE])
def test_what_is_not_its_fault_never_opens_its_breaker(blame: Blame | None) -> None:
    one = backend()
    for _ in range(10):
        one.enter().leave(blame)
    assert one.ready


def test_its_own_failures_do() -> None:
    clock = Clock()
    one = backend(clock)
    for _ in range(2):
        one.enter().leave(Blame.BACKEND)
    assert (one.state, one.ready) == ("open", False)
    clock.now = 2.0
    assert one.ready
    one.enter().leave(None)
    assert one.state == "probing"


@pytest.mark.parametrize("blame", [Blame.GONE, Blame.BUSY, Blame.GATEWAY])
def test_a_trial_that_says_nothing_about_it_is_repeated(blame: Blame) -> None:
    clock = Clock()
    one = backend(clock)
    for _ in range(2):
        one.enter().leave(Blame.BACKEND)
    clock.now = 2.0
    trial = one.enter()
    assert not one.ready
    trial.leave(blame)
    assert one.ready
    assert one.state == "open"


def test_its_state_is_the_worst_that_is_known() -> None:
    one = backend()
    one.probed = True
    assert repr(one) == "Backend(10.0.0.1:8000, healthy, in_flight=0)"
    for _ in range(2):
        one.enter().leave(Blame.BACKEND)
    one.healthy = False
    assert one.state == "unhealthy"
    assert not one.ready


def test_latency_jumps_to_a_peak_and_forgets_it_slowly() -> None:
    latency = PeakEwma()
    latency.add(0.1, 0.0)
    latency.add(2.0, 1.0)
    assert latency.value == 2.0
    latency.add(0.1, 2.0)
    assert 1.5 < latency.value < 2.0
    latency.add(0.1, 2.0 + 10 * DECAY)
    assert latency.value == pytest.approx(0.1, rel=0.01)


@given(st.lists(st.tuples(st.floats(0.001, 100), st.floats(0, 100)), min_size=1))
def test_latency_stays_between_the_last_and_the_highest(heard: list[tuple[float, float]]) -> None:
    latency, now = PeakEwma(), 0.0
    for seconds, passed in heard:
        now += passed
        latency.add(seconds, now)
    assert heard[-1][0] <= latency.value * (1 + 1e-9)
    assert latency.value <= max(seconds for seconds, _ in heard) * (1 + 1e-9)
