"""Budgets are kept and no stricter than they must be; a risk bound holds as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from policies.composition.budget import (
    Reals,
    Reference,
    at_margin,
    binomial,
    bound,
    chosen,
    mean_cost,
    rate_for,
)

COSTS = np.array([3.0, 1.0, 8.0])


def qualities(seed: int, rows: int = 200, experts: int = 3) -> Reals:
    drawn: Reals = np.random.default_rng(seed).random((rows, experts))
    return drawn


# --------------------------------------------------------------------------------------- budgets


def test_without_a_price_the_best_is_chosen_and_of_equal_ones_the_cheaper() -> None:
    quality = np.array([[0.9, 0.1, 0.5], [0.5, 0.5, 0.5], [0.1, 0.2, 0.9]])
    assert chosen(quality, COSTS, 0.0).tolist() == [0, 1, 2]
    assert chosen(quality, COSTS, 1.0).tolist() == [1, 1, 1]
    assert chosen(quality, COSTS, 0.11).tolist() == [0, 1, 1]


@given(
    seed=st.integers(0, 99),
    costs=st.lists(st.sampled_from([0.0, 0.001, 1.0, 3.0, 8.0]), min_size=1, max_size=5),
    share=st.floats(0, 1.2),
)
def test_a_rate_keeps_the_budget_and_is_the_smallest(
    seed: int, costs: list[float], share: float
) -> None:
    prices, quality = np.array(costs), qualities(seed, 60, len(costs))
    cheapest, dearest = prices.min(), prices.max()
    budget = cheapest + share * (dearest - cheapest)
    rate = rate_for(quality, prices, budget)
    assert mean_cost(quality, prices, rate) <= budget + 1e-9
    if rate > 0 and budget > cheapest:
        assert mean_cost(quality, prices, rate * (1 - 1e-6) - 1e-12) > budget


@given(seed=st.integers(0, 99))
def test_a_budget_of_the_cheapest_takes_nothing_else_on_any_row(seed: int) -> None:
    rate = rate_for(qualities(1), COSTS, 1.0)
    assert set(chosen(qualities(seed), COSTS, rate).tolist()) == {1}


def test_less_than_the_cheapest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.5 is less than the cheapest expert costs, 1"):
        rate_for(qualities(0), COSTS, 0.5)


def test_one_price_leaves_nothing_to_choose() -> None:
    assert rate_for(qualities(0), np.full(3, 0.1), 0.1) == 0.0
    assert rate_for(qualities(0), np.full(3, 0.1), 5.0) == 0.0


# ------------------------------------------------------------------------------------------ risk


@given(
    trials=st.integers(1, 3000),
    share=st.floats(0, 1),
    chance=st.floats(0.001, 0.999),
)
def test_the_binomial_is_scipys(trials: int, share: float, chance: float) -> None:
    most = int(share * trials)
    expected = binom.cdf(most, trials, chance)
    assert binomial(most, trials, chance) == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_the_binomial_at_its_edges() -> None:
    assert binomial(0, 10, 0.0) == 1.0
    assert binomial(10, 10, 0.5) == 1.0
    assert binomial(9, 10, 1.0) == 0.0
    assert binomial(0, 3, 0.5) == pytest.approx(0.125)


def test_a_margin_takes_the_cheapest_that_comes_close_enough() -> None:
    quality = np.array([[0.5, 0.4, 0.6], [0.7, 0.2, 0.6], [0.0, 0.0, 0.6]])
    assert at_margin(quality, COSTS, 2, 0.0).tolist() == [2, 0, 2]
    assert at_margin(quality, COSTS, 2, -0.2).tolist() == [1, 0, 2]
    assert at_margin(quality, COSTS, 2, np.inf).tolist() == [2, 2, 2]
    assert at_margin(quality, COSTS, 0, -1.0).tolist() == [1, 1, 1], "never a dearer one"


@given(seed=st.integers(0, 50), margin=st.floats(-1, 1))
def test_a_margin_judges_a_row_alone_as_among_others(seed: int, margin: float) -> None:
    """Also where two experts cost the same."""
    quality, costs = qualities(seed, 40, 4), np.array([1.0, 1.0, 5.0, 5.0])
    whole = at_margin(quality, costs, 2, margin)
    assert whole.tolist() == [int(at_margin(row[None], costs, 2, margin)[0]) for row in quality]


def outcomes(rng: np.random.Generator, rows: int) -> Reference:
    """A cheap and a strong expert, right or wrong with the chance that is expected of them."""
    predicted = np.column_stack([rng.uniform(0.2, 0.9, rows), rng.uniform(0.6, 0.95, rows)])
    return Reference(predicted, (rng.random(predicted.shape) < predicted).astype(float))


@pytest.mark.slow
def test_a_bound_holds_as_often_as_it_says() -> None:
    """Over 200 calibrations, the true risk is above the bound in at most a tenth of them."""
    rng, costs, worse, confidence = np.random.default_rng(11), np.array([1.0, 8.0]), 0.1, 0.9
    truth = outcomes(rng, 100_000)
    broken, useful = 0, 0
    for _ in range(200):
        found = bound(outcomes(rng, 400), costs, 1, worse, confidence)
        at = at_margin(truth.predicted, costs, 1, found.margin)
        rows = np.arange(len(at))
        broken += float((truth.actual[rows, at] < truth.actual[:, 1]).mean()) > worse
        useful += found.others > 0.1
    assert broken <= binom.ppf(0.999, 200, 1 - confidence)
    assert useful > 100, "and it is not the strongest expert that answers everything"


def test_a_bound_that_cannot_be_shown_leaves_everything_to_the_strongest() -> None:
    few = outcomes(np.random.default_rng(1), 10)
    found = bound(few, np.array([1.0, 8.0]), 1, 0.01, 0.95)
    assert (found.margin, found.others) == (np.inf, 0.0)
    unknown = Reference(few.predicted, np.full(few.actual.shape, np.nan))
    assert bound(unknown, np.array([1.0, 8.0]), 1, 0.5, 0.9).margin == np.inf


def test_a_looser_bound_takes_the_cheaper_more_often() -> None:
    reference = outcomes(np.random.default_rng(2), 2000)
    found = [bound(reference, np.array([1.0, 8.0]), 1, w, 0.9) for w in (0.02, 0.1, 0.3)]
    assert [each.others for each in found] == sorted(each.others for each in found)
    assert found[0].others < found[2].others
    assert all(each.worse <= w for each, w in zip(found, (0.02, 0.1, 0.3), strict=True))
