"""The breaker under virtual time: it opens, waits, tries once, and doubles the pause."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.breaker import Breaker, BreakerSettings, Gate, Outcome, control

RULES = BreakerSettings(failures=3, wait=2.0, longest=10.0)


def broken(times: int = 3, at: float = 0.0) -> Breaker:
    breaker = Breaker(RULES)
    for _ in range(times):
        breaker.leave(Outcome(False, at, breaker.enter()))
    return breaker


def trial(breaker: Breaker, at: float, *, ok: bool) -> None:
    assert breaker.allows(at)
    tried = breaker.enter()
    assert tried
    breaker.leave(Outcome(ok, at, tried))


def test_it_stays_closed_below_the_limit() -> None:
    breaker = broken(2)
    assert not breaker.open
    assert breaker.allows(0.0)


def test_a_success_starts_the_count_anew() -> None:
    breaker = broken(2)
    breaker.leave(Outcome(True, 0.0))
    breaker.leave(Outcome(False, 0.0))
    breaker.leave(Outcome(False, 0.0))
    assert not breaker.open


def test_it_opens_for_a_pause_and_then_allows_one_trial() -> None:
    breaker = broken(at=100.0)
    assert breaker.open
    assert not breaker.allows(101.9)
    assert breaker.allows(102.0)
    assert breaker.enter()
    assert not breaker.allows(1000.0), "there is one trial call under way"


def test_a_trial_that_goes_well_closes_it() -> None:
    breaker = broken()
    trial(breaker, 2.0, ok=True)
    assert not breaker.open
    assert breaker.allows(2.0)
    breaker.leave(Outcome(False, 2.0))
    assert not breaker.open, "the count began anew"


def test_the_pause_doubles_with_each_failed_trial_up_to_the_longest() -> None:
    breaker, now = broken(), 0.0
    for pause in (2.0, 4.0, 8.0, 10.0, 10.0):
        assert not breaker.allows(now + pause - 0.01)
        now += pause
        trial(breaker, now, ok=False)
    trial(breaker, now + 10.0, ok=True)
    for _ in range(3):
        breaker.leave(Outcome(False, 100.0))
    assert breaker.allows(102.0), "and is short again after a success"


@pytest.mark.parametrize("ok", [True, False])
def test_a_late_answer_to_a_call_from_before_the_pause_changes_nothing(*, ok: bool) -> None:
    breaker = broken()
    breaker.leave(Outcome(ok, 1.0, trial=False))
    assert breaker.open
    assert not breaker.allows(1.9)
    assert breaker.allows(2.0)
    tried = breaker.enter()
    breaker.leave(Outcome(not ok, 2.5, trial=False))
    assert not breaker.allows(50.0), "the trial is still under way"
    breaker.leave(Outcome(True, 3.0, tried))
    assert not breaker.open


def test_a_trial_that_told_nothing_may_be_made_again() -> None:
    breaker = broken()
    tried = breaker.enter()
    breaker.forget(tried)
    assert breaker.open
    assert breaker.allows(2.0)


def test_a_forgotten_call_from_before_does_not_end_the_trial() -> None:
    breaker = broken()
    breaker.enter()
    breaker.forget(False)
    assert not breaker.allows(100.0)


def test_its_life_is_a_generator_that_says_what_it_allows() -> None:
    life = control(BreakerSettings(failures=1, wait=1.0, longest=3.0))
    assert next(life) == Gate()
    assert life.send(Outcome(True, 0.0)) == Gate()
    assert life.send(Outcome(False, 0.0)) == Gate(until=1.0)
    assert life.send(Outcome(False, 5.0, trial=True)) == Gate(until=7.0)
    assert life.send(Outcome(False, 9.0, trial=True)) == Gate(until=12.0)
    assert life.send(Outcome(True, 20.0, trial=True)) == Gate()


@given(st.lists(st.tuples(st.sampled_from(["enter", "ok", "fail", "forget"]), st.floats(0, 5))))
def test_it_never_shuts_a_backend_off_for_good(moves: list[tuple[str, Any]]) -> None:
    """Whatever happens, a trial is due at most `longest` after the last call has ended."""
    breaker, now, calls = Breaker(RULES), 0.0, []
    for move, passed in moves:
        now += passed
        if move == "enter" and breaker.allows(now):
            calls.append(breaker.enter())
            assert sum(calls) <= 1, "two trials at once"
        elif move != "enter" and calls:
            end(breaker, move, now, calls.pop())
    for call in calls:
        breaker.forget(call)
    assert breaker.allows(now + RULES.longest)


def end(breaker: Breaker, how: str, now: float, tried: bool) -> None:
    if how == "forget":
        breaker.forget(tried)
    else:
        breaker.leave(Outcome(how == "ok", now, tried))
