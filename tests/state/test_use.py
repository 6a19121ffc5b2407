"""What processes may use of one key together: whatever they do, in whatever order."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.limits import refilled
from app.state.use import EXPIRES, Ask, Left, Limits, asking, left
from tests.bench.budgets import measure
from tests.state.servers import Server

USD = Limits(usd=1.0)
RATES = Limits(requests=60, tokens=600)


class Shared:
    """One key's document, and the store's time."""

    def __init__(self) -> None:
        self.document: Mapping[str, Any] = {}
        self.now = 100.0

    def ask(self, ask: Ask) -> Left:
        """What the document answers."""
        self.document = asking(ask)(self.document, self.now)
        return left(self.document, ask)


def test_leases_are_handed_out_until_nothing_is_left() -> None:
    shared = Shared()
    assert shared.ask(Ask("a", 1, USD, lease=0.6)).lease == 0.6
    second = shared.ask(Ask("b", 1, USD, lease=0.6))
    assert second.lease == pytest.approx(0.4)
    assert (second.free, second.held) == (0.0, 0.6)
    assert shared.ask(Ask("c", 1, USD, lease=0.1)).lease == 0

    told = shared.ask(Ask("a", 2, USD, spent=0.2, lease=0.1))
    assert (told.spent, told.lease) == (0.2, 0.1)
    assert told.free == pytest.approx(0.3)
    assert shared.ask(Ask("c", 2, USD, lease=0.5)).lease == pytest.approx(0.3)


def test_an_ask_that_is_heard_twice_counts_once() -> None:
    shared = Shared()
    ask = Ask("a", 1, Limits(1.0, 60, 600), spent=0.3, tokens=100, lease=0.1, requests=5)
    once = shared.ask(ask)
    assert (once.requests, once.level, once.tokens) == (5, 55, 500)
    assert shared.ask(ask) == once


def test_a_store_that_has_lost_everything_learns_what_was_spent() -> None:
    shared = Shared()
    told = shared.ask(Ask("a", 1, USD, spent=0.7))
    shared.document = {}
    assert shared.ask(Ask("a", 2, USD, known=told.spent, spent=0.1)).spent == pytest.approx(0.8)
    assert shared.ask(Ask("b", 1, USD, known=0.5, lease=1.0)).lease == pytest.approx(0.2)


def test_the_lease_of_one_that_is_gone_is_free_again() -> None:
    shared = Shared()
    shared.ask(Ask("gone", 1, USD, lease=1.0))
    assert shared.ask(Ask("a", 1, USD, lease=0.5)).lease == 0
    shared.now += EXPIRES + 1
    assert shared.ask(Ask("a", 2, USD, lease=0.5)).lease == 0.5


def test_a_lease_from_before_a_boot_is_free_again() -> None:
    shared = Shared()
    shared.now = 1e6
    shared.ask(Ask("gone", 1, USD, lease=1.0))
    shared.now = 10.0
    assert shared.ask(Ask("a", 1, USD, lease=0.5)).lease == 0.5


def test_requests_are_granted_as_they_come_back() -> None:
    shared = Shared()
    assert shared.ask(Ask("a", 1, RATES, requests=50)).requests == 50
    assert shared.ask(Ask("b", 1, RATES, requests=50)).requests == 10
    assert shared.ask(Ask("b", 2, RATES, requests=1)).requests == 0
    shared.now += 2
    assert shared.ask(Ask("b", 3, RATES, requests=50)).requests == 2
    assert shared.ask(Ask("a", 2, RATES, unused=20)).level == 20
    assert shared.ask(Ask("b", 4, RATES, requests=50)).requests == 20


def test_tokens_may_be_overdrawn_and_come_back() -> None:
    shared = Shared()
    assert shared.ask(Ask("a", 1, RATES, tokens=700)).tokens == -100
    shared.now += 11
    assert shared.ask(Ask("b", 1, RATES)).tokens == pytest.approx(10)


def test_a_bucket_of_another_size_is_as_full() -> None:
    assert refilled((30, 0, 60), 6, 0) == 3
    assert refilled((-60, 0, 60), 6, 0) == -6
    assert refilled((60, 0, 60), 6, 100) == 6
    assert refilled((10, 5, 60), 60, 0) == 10, "a clock that is behind takes nothing"
    assert refilled(None, 60, 0) == 60


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.floats(0, 1),
            st.floats(0, 0.5),
            st.sampled_from([0.0, 0.1, 1.0, EXPIRES / 2]),
        ),
        max_size=60,
    )
)
def test_whoever_spends_no_more_than_its_lease_overspends_nothing(
    calls: list[tuple[str, float, float, float]],
) -> None:
    """`part` is what is spent of the lease before the next ask."""
    shared, leases, spent = Shared(), dict.fromkeys("abcd", 0.0), 0.0
    renewed = dict.fromkeys("abcd", 0.0)
    for number, (member, part, want, pause) in enumerate(calls, 1):
        alive = shared.now - renewed[member] <= EXPIRES
        use = leases[member] * part if alive else 0.0
        spent += use
        answer = shared.ask(Ask(member, number, USD, spent=use, lease=want))
        leases[member], renewed[member] = answer.lease, shared.now
        assert spent <= 1 + 1e-9
        assert answer.spent == pytest.approx(spent)
        assert answer.spent + answer.lease + answer.held <= 1 + 1e-9
        shared.now += pause


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 80), st.floats(0, 30))))
def test_no_more_requests_than_a_bucket_holds_and_refills(
    calls: list[tuple[str, int, float]],
) -> None:
    shared, granted, began = Shared(), 0, 100.0
    for number, (member, want, pause) in enumerate(calls, 1):
        granted += shared.ask(Ask(member, number, RATES, requests=want)).requests
        assert granted <= 60 + (shared.now - began) + 1e-6
        shared.now += pause


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_eight_processes_and_one_key_of_one_dollar(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Ten thousand calls, for which four dollars would be needed."""
    server: Server | None = request.getfixturevalue("server") if kind == "redis" else None
    found = measure(server.url if server else str(tmp_path / "state.sqlite"), tmp_path)
    assert found.overspent <= found.leases
    assert found.spent >= found.limit * 0.95, "and what is there can be spent"
    assert found.refused > 5000
