"""The contest: its figures where they are known, its intervals, and who is better than whom."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from policies.training.scoring.contest import (
    ORACLE,
    POLICY,
    ZERO,
    Contest,
    Field,
    Way,
    band,
    bounds,
    lots,
)
from policies.training.scoring.neighbours import Neighbours, cross_fitted, folds, remembering
from policies.training.scoring.resampling import difference, interval, resampled, weights
from policies.training.scoring.trails import Floats, means

TASKS = np.repeat([0, 1], 200)


def pair(seed: int = 0) -> tuple[Field, Floats]:
    """400 rows of two models, and a ranker that knows a good part of what is to be known."""
    rng = np.random.default_rng(seed)
    hard = rng.random(400)
    scores = (rng.random((400, 2)) > np.stack([hard, 0.3 * hard], axis=1)).astype(np.float64)
    sizes = np.array([8.0, 70.0])
    field = Field(("s", "l"), scores, np.tile(sizes, (400, 1)), sizes, TASKS, by_share=True)
    return field, 1 - np.stack([hard, 0.3 * hard], axis=1)


def chosen(field: Field, models: npt.ArrayLike) -> Way:
    return lots(field, np.eye(len(field.models))[np.asarray(models, dtype=np.intp)])


def test_a_pairs_figures() -> None:
    field, expected = pair()
    hard = expected[:, 0] < 0.5
    own = chosen(field, hard)
    length = np.stack([np.zeros(400), np.arange(400.0)], axis=1)
    contest = Contest(field, {POLICY: own}, {POLICY: expected, "length": length})
    result = contest.held(300, 0)
    values = result.values
    assert values["s/score"] == pytest.approx(field.scores[:, 0].mean())
    assert values["l/cost"] == values["l/params_b"] == 70
    assert values["policy/place"] == pytest.approx(hard.mean())
    assert values["policy/cost"] == pytest.approx(8 + 62 * hard.mean())
    assert values["policy/apgr"] > 0.6 > values["length/apgr"]
    assert values["policy/cpt50"] < 0.4 < values["length/cpt50"]
    apart = result.above("policy/apgr", "length/apgr")
    assert 0 < apart.low < apart.value < apart.high
    covers = result.interval("length/apgr")
    assert covers.low < 0.5 < covers.high
    # The Zero router of two models draws lots.
    share = hard.mean()
    mixed = (1 - share) * values["s/score"] + share * values["l/score"]
    assert values[f"{ZERO}/score"] == pytest.approx(mixed)
    better = field.scores[:, 1] > field.scores[:, 0]
    assert share >= better.mean()
    assert values[f"{ORACLE}/score"] == pytest.approx(field.scores.max(axis=1).mean())
    way = (own.score.mean() - values["s/score"]) / (
        field.scores.max(axis=1).mean() - values["s/score"]
    )
    assert values["policy/way"] == pytest.approx(way)


def test_the_policys_own_point_is_not_its_curves() -> None:
    """It may answer otherwise than it ranks: what counts is what it did."""
    field, expected = pair()
    own = Way(np.full(400, 0.125), np.zeros(400), np.zeros(400), np.full(400, 0.5))
    result = Contest(field, {POLICY: own}, {POLICY: expected}).held(5, 0)
    assert result.values["policy/score"] == 0.125


def test_many_models_are_compared_at_equal_cost() -> None:
    rng = np.random.default_rng(1)
    sizes = np.array([1.0, 2.0, 8.0])
    kind = rng.integers(0, 3, 400)
    scores = np.clip(rng.random((400, 3)) * 0.3 + 0.7 * np.eye(3)[kind], 0, 1)
    field = Field(("a", "b", "c"), scores, np.tile(sizes, (400, 1)), sizes, TASKS)
    result = Contest(field, {POLICY: chosen(field, kind)}, {POLICY: np.eye(3)[kind]}).held(200, 0)
    assert "policy/apgr" not in result.values
    assert result.above("policy/score", f"{ZERO}/score").low > 0.2
    assert result.above("policy/aiq", f"{ZERO}/aiq").low > 0
    assert result.above(f"{ORACLE}/aiq", "policy/aiq").low >= 0
    assert result.interval("policy/way").value > 0.9
    assert result.values[f"{ORACLE}/most"] == pytest.approx(scores.max(axis=1).mean())
    assert result.values["policy/single"] == pytest.approx(scores.mean(axis=0)[:2].max())


def test_a_single_model_is_no_way_from_itself() -> None:
    sizes = np.array([1.0])
    field = Field(("a",), np.ones((3, 1)), np.ones((3, 1)), sizes, np.zeros(3, dtype=np.intp))
    result = Contest(field, {POLICY: chosen(field, np.zeros(3))}, {}).held(5, 0)
    assert math.isnan(result.values["policy/way"])
    assert math.isnan(result.interval("policy/way").low)


def test_a_curve_has_a_band_around_it() -> None:
    field, expected = pair()
    drawn = band(field, expected, 200, 0)
    assert drawn.places[[0, -1]].tolist() == [0, 1]
    assert drawn.quality[0] == pytest.approx(field.scores[:, 0].mean())
    assert drawn.quality[-1] == pytest.approx(field.scores[:, 1].mean())
    inside = (drawn.low <= drawn.quality) & (drawn.quality <= drawn.high)
    assert inside.mean() > 0.95
    assert band(field, expected, 0, 0).low.tolist() == drawn.quality.tolist()


# ------------------------------------------------------------------------------------- resampling


def test_resamples_keep_the_size_of_every_task() -> None:
    strata = np.array([0, 0, 0, 1, 1])
    drawn = np.concatenate([*weights(strata, 50, 0)])
    assert drawn.shape == (50, 5)
    assert (drawn[:, :3].sum(axis=1) == 3).all()
    assert (drawn[:, 3:].sum(axis=1) == 2).all()
    assert len(np.unique(drawn, axis=0)) > 10


def test_clusters_are_drawn_whole() -> None:
    clusters = np.array([0, 0, 1, 1, 1, 2])
    drawn = np.concatenate([*weights(0 * clusters, 50, 0, clusters)])
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 2] == drawn[:, 4]).all()
    assert (drawn[:, [0, 2, 5]].sum(axis=1) == 3).all()


def test_a_seed_fixes_the_draws() -> None:
    strata = np.zeros(5, dtype=np.intp)
    one, same, other = (next(weights(strata, 3, seed)).tolist() for seed in (1, 1, 2))
    assert one == same != other


def mean_of(scores: Floats, weighed: Floats) -> dict[str, Floats]:
    return {"x": means(scores, weighed)}


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        values = np.random.default_rng(seed).random(60) < 0.3
        measure = partial(mean_of, values.astype(np.float64))
        value, drawn = resampled(measure, np.zeros(60, dtype=np.intp), 200, seed)
        found = interval(value["x"], drawn["x"])
        covered += found.low <= 0.3 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_difference_of_what_moves_together_is_sharp() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(100)
    strata = np.zeros(100, dtype=np.intp)
    values, drawn = resampled(
        lambda w: {"one": means(scores + 0.1, w), "other": means(scores, w)}, strata, 200, 0
    )
    apart = difference(values, drawn, "one", "other")
    assert apart.low == pytest.approx(0.1)
    assert apart.high == pytest.approx(0.1)


# ------------------------------------------------------------------------------------------- k-NN


def test_the_nearest_say_what_to_expect() -> None:
    vectors = np.array([[1.0, 0], [2, 0.1], [0, 1], [0, 3]])
    scores = np.array([[1.0, 0.5], [0.5, np.nan], [0, 1], [0, np.nan]])
    found = Neighbours(vectors, scores, 2).expected(np.array([[5.0, 0], [0, 0.1]]))
    assert found.tolist() == [[0.75, 0.5], [0, 1]]


def test_what_no_neighbour_knows_is_the_mean() -> None:
    scores = np.array([[np.nan], [0.25], [0.75]])
    found = Neighbours(np.array([[1.0, 0], [0, 1], [0, 1]]), scores, 1).expected(
        np.array([[1.0, 0]])
    )
    assert found.tolist() == [[0.5]]


def test_no_row_tells_of_itself_or_of_its_own_prompt() -> None:
    prompts = [f"prompt {number // 2}" for number in range(40)]
    fold = folds(prompts, 0)
    assert len(set(fold.tolist())) == 10
    assert (fold[::2] == fold[1::2]).all()
    vectors = np.random.default_rng(0).normal(size=(20, 8)).repeat(2, axis=0)
    scores = np.repeat(np.arange(20.0), 2)[:, None]
    found = cross_fitted(vectors, scores, fold, 1)
    assert not (found == scores).any()


def test_a_text_is_embedded_once() -> None:
    asked: list[str] = []

    def embed(texts: object) -> Floats:
        assert isinstance(texts, list)
        asked.extend(texts)
        return np.asarray([[len(text), 1.0] for text in texts])

    vectors = remembering(embed)
    assert vectors(["a", "bb", "a"]).tolist() == [[1, 1], [2, 1], [1, 1]]
    assert vectors(("bb", "ccc")).tolist() == [[2, 1], [3, 1]]
    assert asked == ["a", "bb", "ccc"]


def test_what_is_paid_for_twice_is_compared_at_its_cost() -> None:
    """A cascade has the large model's share of lots, and costs more."""
    field, expected = pair()
    by_cost = replace(field, by_share=False)
    own = Way(field.scores[:, 1], np.full(400, 50.0), np.full(400, 50.0), np.full(400, 0.5))
    result = Contest(by_cost, {POLICY: own}, {POLICY: expected}).held(5, 0)
    assert result.values["policy/place"] == 50
    share = (50 - 8) / 62
    mixed = (1 - share) * result.values["s/score"] + share * result.values["l/score"]
    assert result.values[f"{ZERO}/score"] == pytest.approx(mixed)
    same = Contest(field, {POLICY: own}, {POLICY: expected}).held(5, 0)
    assert result.values["policy/apgr"] == same.values["policy/apgr"]


def test_the_bounds_begin_and_end_where_they_must() -> None:
    """Lots at the single models, the oracle at the cheapest and with every row's best."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 2, (50, 3)).astype(float)
    costs = np.broadcast_to(np.array([1.0, 4.0, 9.0]), (50, 3))
    field = Field(("a", "b", "c"), scores, costs, np.ones(3), np.zeros(50, np.intp))
    zero, oracle = bounds(field)
    for line in (zero, oracle):
        assert (line.places[0], line.places[-1]) == (1, 9)
        assert line.quality[0] == pytest.approx(scores[:, 0].mean())
    assert zero.quality.max() == pytest.approx(scores.mean(axis=0).max())
    assert oracle.quality[-1] == pytest.approx(scores.max(axis=1).mean())
    assert (oracle.quality >= zero.quality - 1e-9).all()
