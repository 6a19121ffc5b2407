"""The retry budget under virtual time: a share of the traffic, and a floor per ten seconds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.budget import WINDOW, RetryBudget


class Clock:
    """Virtual time in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def withdrawn(budget: RetryBudget, most: int = 10_000) -> int:
    return next((count for count in range(most) if not budget.withdraw()), most)


def test_a_quiet_gateway_may_retry_up_to_the_floor() -> None:
    assert withdrawn(RetryBudget(0.2, 10, Clock())) == 10


def test_requests_pay_in_their_share() -> None:
    budget = RetryBudget(0.25, 0, Clock())
    for _ in range(100):
        budget.deposit()
    assert withdrawn(budget) == 25


def test_the_floor_is_refilled_with_time_and_not_beyond() -> None:
    clock = Clock()
    budget = RetryBudget(0.0, 10, clock)
    assert withdrawn(budget) == 10
    clock.now += WINDOW / 2
    assert withdrawn(budget) == 5
    clock.now += 100 * WINDOW
    assert withdrawn(budget) == 10


def test_a_long_calm_does_not_pay_for_a_storm() -> None:
    clock = Clock()
    budget = RetryBudget(0.5, 0, clock)
    for _ in range(5000):
        clock.now += 0.1
        budget.deposit()
    assert withdrawn(budget) == 50  # 10 requests a second for a window of 10 s, half of it
    budget.deposit()
    budget.deposit()
    clock.now += 100 * WINDOW
    assert not budget.withdraw()


def test_without_share_and_floor_there_are_no_retries() -> None:
    budget = RetryBudget(0.0, 0, Clock())
    budget.deposit()
    assert not budget.withdraw()


@given(
    share=st.floats(0, 1),
    floor=st.integers(0, 50),
    moves=st.lists(st.one_of(st.just("request"), st.just("retry"), st.floats(0, 30))),
)
def test_retries_never_exceed_share_and_floor(
    share: float, floor: int, moves: list[str | float]
) -> None:
    clock = Clock()
    budget = RetryBudget(share, floor, clock)
    requests = retries = 0
    for move in moves:
        if isinstance(move, float):
            clock.now += move
        elif move == "request":
            requests += 1
            budget.deposit()
        else:
            retries += budget.withdraw()
    passed = (clock.now - 1000.0) / WINDOW
    assert retries <= share * requests + floor * (1 + passed) + 1e-6
