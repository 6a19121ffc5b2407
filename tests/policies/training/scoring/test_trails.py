"""Trails, PGR and hulls: figures by hand and by brute force, and what must not matter to them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from policies.training.scoring.hulls import aiq, best_single, height, hull, thinned
from policies.training.scoring.pairs import apgr, cpt, pgr
from policies.training.scoring.trails import Floats, at, means, ranked, trail, walked

SHARE = np.array([0.0, 1.0])
"""What an answer adds to the large model's share."""


def curve(
    ranking: list[float], scores: Floats, weights: Floats | None = None
) -> tuple[Floats, Floats]:
    """Shares and scores along a ranking of two models' rows."""
    weighed = np.ones((1, len(scores))) if weights is None else weights
    walk = ranked(np.asarray(ranking, dtype=np.float64))
    shares = walked(walk, np.broadcast_to(SHARE, scores.shape), weighed)
    return shares, walked(walk, scores, weighed)


# --------------------------------------------------------------------------------------- two models

HALF = np.array([[0.0, 1], [0, 0], [1, 1], [1, 1]])
"""Of four rows the large model is better on the first alone."""


def test_the_best_ranking_by_hand() -> None:
    shares, quality = curve([4, 3, 2, 1], HALF)
    assert shares[0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert quality[0].tolist() == [0.5, 0.75, 0.75, 0.75, 0.75]
    recovered = pgr(quality)
    assert recovered[0].tolist() == [0, 1, 1, 1, 1]
    assert apgr(shares, recovered)[0] == pytest.approx(0.25 / 2 + 0.75)
    assert cpt(0.5, shares, recovered)[0] == pytest.approx(0.125)
    assert cpt(0.8, shares, recovered)[0] == pytest.approx(0.2)
    assert cpt(1.0, shares, recovered)[0] == pytest.approx(0.25)


def test_the_worst_ranking_by_hand() -> None:
    shares, quality = curve([1, 2, 3, 4], HALF)
    recovered = pgr(quality)
    assert apgr(shares, recovered)[0] == pytest.approx(0.25 / 2)
    assert cpt(0.5, shares, recovered)[0] == pytest.approx(0.875)


def test_a_ranking_may_pass_the_large_model_on_the_way() -> None:
    shares, quality = curve([2, 1], np.array([[0.0, 1], [1, 0.5]]))
    recovered = pgr(quality)
    assert recovered[0].tolist() == [0, 2, 1]
    assert cpt(1.0, shares, recovered)[0] == pytest.approx(0.25)


def test_without_a_gap_there_is_no_figure() -> None:
    shares, quality = curve([1, 2], np.array([[1.0, 0], [0, 1]]))
    recovered = pgr(quality)
    assert math.isnan(apgr(shares, recovered)[0])
    assert math.isnan(cpt(0.5, shares, recovered)[0])


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0.5, 1)), min_size=1, max_size=20))
def test_a_ranking_that_says_nothing_is_lots(pairs: list[tuple[float, float]]) -> None:
    scores = np.asarray([*pairs, (0.0, 1.0)])
    shares, quality = curve([0.5] * len(scores), scores)
    recovered = pgr(quality)
    assert apgr(shares, recovered)[0] == pytest.approx(0.5)
    for level in (0.2, 0.5, 0.8):
        assert cpt(level, shares, recovered)[0] == pytest.approx(level)


@given(st.data())
def test_the_order_of_rows_does_not_matter(data: st.DataObject) -> None:
    """Above all not that of rows which are ranked alike."""
    number = data.draw(st.integers(2, 8))
    ranking = data.draw(st.lists(st.integers(0, 2), min_size=number, max_size=number))
    scores = np.asarray(
        data.draw(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1])] * 2), min_size=number,
                           max_size=number))
    )  # fmt: skip
    order = data.draw(st.permutations(range(number)))
    one = curve([float(r) for r in ranking], scores)
    other = curve([float(ranking[n]) for n in order], scores[list(order)])
    assert np.allclose(one[0], other[0])
    assert np.allclose(one[1], other[1])


def test_ties_are_the_mean_over_all_their_orders() -> None:
    scores = np.array([[0.0, 1], [0, 0.5], [0.5, 0.25], [0, 1]])
    areas = []
    for order in itertools.permutations(range(4)):
        shares, quality = curve([float(-order.index(n)) for n in range(4)], scores)
        areas.append(float(np.trapezoid(quality[0], shares[0])))
    shares, quality = curve([0.0] * 4, scores)
    assert np.trapezoid(quality[0], shares[0]) == pytest.approx(np.mean(areas))


def test_a_weight_is_a_row_that_comes_as_often() -> None:
    rng = np.random.default_rng(0)
    scores, ranking = rng.random((6, 2)), rng.random(6)
    often = np.array([0, 3, 1, 0, 2, 1])
    chosen = np.repeat(np.arange(6), often)
    weighed = curve(ranking.tolist(), scores, often[None].astype(np.float64))
    repeated = curve(ranking[chosen].tolist(), scores[chosen])
    xs = np.linspace(0, 1, 20)
    assert np.allclose(
        np.interp(xs, weighed[0][0], weighed[1][0]), np.interp(xs, repeated[0][0], repeated[1][0])
    )


# -------------------------------------------------------------------------------------- many models


def test_a_trail_goes_from_the_cheapest_model_to_the_dearest() -> None:
    expected = np.array([[0.2, 0.5, 0.4], [0.6, 0.1, 0.9]])
    costs = np.array([[1.0, 2, 4], [1, 2, 4]])
    walk = trail(expected, costs)
    assert walk.start.tolist() == [0, 0]
    steps = [*zip(walk.rows.tolist(), walk.before.tolist(), walk.after.tolist(), strict=True)]
    assert steps == [(0, 0, 1), (1, 0, 2), (0, 1, 2)]
    assert walked(walk, costs, np.ones((1, 2)))[0].tolist() == [1, 1.5, 3, 4]
    rising = trail(expected, costs, rising=True)
    assert len(rising.rows) == 2


def test_of_two_models_at_one_cost_a_trail_knows_the_better() -> None:
    walk = trail(np.array([[0.2, 0.5]]), np.array([[1.0, 1.0]]))
    assert walk.start.tolist() == [1]
    assert not len(walk.rows)
    assert walked(walk, np.array([[0.2, 0.5]]), np.ones((3, 1))).tolist() == [[0.5]] * 3


@pytest.mark.parametrize("seed", range(5))
def test_the_oracle_is_what_a_linear_program_finds(seed: int) -> None:
    """The best mean score that any mixture of models per row can have at a mean cost."""
    rng = np.random.default_rng(seed)
    rows, models = 5, 3
    scores, costs = rng.random((rows, models)), rng.random((rows, models)) + 0.1
    walk = trail(scores, costs, rising=True)
    once = np.ones((1, rows))
    xs, ys = walked(walk, costs, once)[0], walked(walk, scores, once)[0]
    for budget in np.linspace(xs[0], costs.mean(axis=0).max(), 7):
        found = linprog(
            -scores.ravel() / rows,
            A_ub=costs.ravel()[None] / rows,
            b_ub=[budget],
            A_eq=np.kron(np.eye(rows), np.ones(models)),
            b_eq=np.ones(rows),
        )
        assert np.interp(budget, xs, ys) == pytest.approx(-found.fun, abs=1e-6)


def test_between_two_points_there_is_a_straight_line() -> None:
    along, values = np.array([[0.0, 1], [0, 2]]), np.array([[0.0, 1], [0, 1]])
    assert at(np.array([0.5, 3.0]), along, values).tolist() == [0.5, 1]


def test_means_are_weighted() -> None:
    weights = np.array([[1.0, 3]])
    assert means(np.array([0.0, 1]), weights).tolist() == [0.75]
    assert means(np.array([[0.0, 1], [1, 0]]), weights).tolist() == [[0.75, 0.25]]


def test_a_hull_by_hand() -> None:
    costs, quality = np.array([1.0, 2, 3, 5, 3]), np.array([0.2, 0.3, 0.6, 0.5, 0.1])
    of = hull(costs, quality)
    assert of[0].tolist() == [1, 3, 5]
    assert of[1].tolist() == [0.2, 0.6, 0.6]
    assert height(of, 2) == pytest.approx(0.4)
    assert height(of, 9) == pytest.approx(0.6)
    assert math.isnan(height(of, 0.5))
    assert aiq(of, 1, 3) == pytest.approx(0.4)
    assert aiq(of, 1, 5) == pytest.approx(0.5)
    assert math.isnan(aiq(of, 1, 1))
    assert best_single(costs, quality, 2.5) == pytest.approx(0.3)
    assert best_single(costs, quality, 9) == pytest.approx(0.6)
    assert math.isnan(best_single(costs, quality, 0.5))


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1)), min_size=1, max_size=12).map(
        np.asarray
    )
)
def test_a_hull_is_above_its_points_and_concave(points: Floats) -> None:
    costs, quality = hull(points[:, 0], points[:, 1])
    assert all(height((costs, quality), x) >= y - 1e-9 for x, y in points)
    assert (np.diff(quality) >= 0).all()
    slopes = np.diff(quality) / np.diff(costs)
    assert (np.diff(slopes) <= 1e-6 * np.abs(slopes[:-1]) + 1e-9).all()


def test_thinning_keeps_the_ends() -> None:
    assert thinned(3).tolist() == [0, 1, 2]
    kept = thinned(5_000)
    assert (kept[0], kept[-1], len(kept)) == (0, 4_999, 201)
