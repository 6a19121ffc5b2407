"""The choice of reader and way: the cheapest that is good enough, and nothing that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.reading.choice import MARGIN, Limits, Option, Reader, in_order, options
from policies.reading.documents import Way
from router.fleet import Price

SMALL = Reader("small", "small", 8_000, Price(0.1, 0.4), 2.0)
LARGE = Reader("large", "large", 128_000, Price(1.0, 4.0), 30.0)
TOKENS: Mapping[Way, int] = {"passages": 3_000, "whole": 30_000}
FREE = Limits()
VALUES: Mapping[str, Mapping[Way, float]] = {
    "small": {"passages": 0.70, "whole": 0.60},
    "large": {"passages": 0.78, "whole": 0.80},
}


def chosen(give_up: float, limits: Limits = FREE, **facts: Any) -> tuple[str, Way]:
    readers = (SMALL, replace(LARGE, **facts))
    first = in_order(options(readers, TOKENS, VALUES, 500, limits), give_up, 0.01)[0]
    return first.reader.target, first.way


@pytest.mark.parametrize(
    ("give_up", "expected"),
    [
        (0.0, ("large", "whole")),
        (0.02, ("large", "passages")),
        (0.11, ("small", "passages")),
    ],
)
def test_the_cheapest_that_gives_up_no_more_than_it_may(
    give_up: float, expected: tuple[str, Way]
) -> None:
    assert chosen(give_up) == expected


def test_what_does_not_fit_is_read_in_passages_or_by_a_longer_window() -> None:
    fits = {
        (option.reader.target, option.way): option.unfit
        for option in options((SMALL, LARGE), TOKENS, VALUES, 500, FREE)
    }
    assert fits.pop(("small", "whole")) == "35000 tokens are more than the 8000 of small"
    assert set(fits.values()) == {None}
    assert int(30_000 * MARGIN) + 500 == 35_000


def test_a_window_that_nobody_knows_is_no_limit() -> None:
    made = options((replace(SMALL, window=None),), TOKENS, VALUES, 500, FREE)
    assert [option.unfit for option in made] == [None, None]


@pytest.mark.parametrize("limits", [Limits(tokens=10_000), Limits(usd=0.01)])
def test_limits_are_hard(limits: Limits) -> None:
    assert chosen(0.0, limits) == ("large", "passages")


@pytest.mark.parametrize("facts", [{"healthy": False}, {"wake": float("inf")}])
def test_who_cannot_be_asked_is_not(facts: dict[str, Any]) -> None:
    assert chosen(0.0, **facts) == ("small", "passages")


def test_a_sleeping_model_must_be_worth_the_wait() -> None:
    assert chosen(0.0, wake=5.0) == ("large", "whole")
    assert chosen(0.0, wake=15.0) == ("small", "passages")


def test_without_prices_active_parameters_are_what_it_costs() -> None:
    readers = [replace(reader, price=Price()) for reader in (SMALL, LARGE)]
    made = options(readers, TOKENS, VALUES, 500, FREE)
    assert [option.cost for option in made] == [7_000, 61_000, 105_000, 915_000]


def test_nothing_can_be_left() -> None:
    assert in_order(options((SMALL,), TOKENS, VALUES, 9_000, FREE), 0.1, 0.0) == []


several = st.lists(
    st.builds(
        Option,
        reader=st.builds(
            Reader,
            st.sampled_from("abc"),
            st.just("m"),
            st.none(),
            st.just(0.0),
            st.just(0.0),
            st.just(1.0),
            wake=st.floats(0, 60),
        ),
        way=st.sampled_from(("passages", "whole")),
        tokens=st.integers(0, 10**6),
        value=st.floats(0, 1),
        cost=st.floats(0, 10),
        unfit=st.sampled_from((None, None, "too long")),
    ),
    max_size=8,
)


@given(several, st.floats(0, 1), st.floats(0, 0.1))
def test_the_order_holds_all_that_fit_and_its_first_gives_up_what_it_may(
    made: list[Option], give_up: float, patience: float
) -> None:
    found = in_order(made, give_up, patience)
    assert sorted(map(id, found)) == sorted(id(o) for o in made if o.unfit is None)
    if found:
        worths = [option.value - patience * option.reader.wake for option in found]
        assert worths[0] >= max(worths) - give_up
        assert worths[1:] == sorted(worths[1:], reverse=True)
        near = [o for o, worth in zip(found, worths, strict=True) if worth >= max(worths) - give_up]
        assert found[0].cost == min(option.cost for option in near)
