"""Weighing the blocks: folds, weights, and that what is called unseen was not seen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from policies.composition.blocks import Categories, Table
from policies.composition.features import Features
from policies.composition.lexical import Floats
from policies.training.experts.blending import (
    ORDINARY,
    Blended,
    blended,
    by_category,
    folds_of,
    slope,
)
from policies.training.experts.fit import Fit, Reals
from policies.training.experts.gaps import filled
from policies.training.experts.kinds import Classified
from tests.policies.training.experts.planted import Hashing, prompts

ROWS = 240


def features(rows: int = ROWS, seed: int = 0) -> Features:
    dense = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    return Features(dense, dense[:, :0], ())


def outcomes(seen: Features, noise: float = 0.05) -> Reals:
    """Two experts: one is good where the first number is high, the other where it is low."""
    rng = np.random.default_rng(1)
    good = 0.5 + 0.15 * seen.dense[:, 0].clip(-3, 3)
    scores = np.column_stack([good, 1 - good]) + rng.normal(scale=noise, size=(len(seen), 2))
    clipped: Reals = scores.clip(0, 1).astype(float)
    return clipped


class Linear:
    """Ridge regression over everything."""

    def __init__(self, seen: Features, wanted: Reals) -> None:
        self._ridge = Ridge(1.0).fit(seen.dense, wanted)

    def outputs(self, features: Features) -> Floats:
        if not len(features):
            return np.zeros((0, 3), np.float32)
        found: Floats = self._ridge.predict(features.dense).astype(np.float32)
        return found


class Mean:
    """Expects the mean, whatever it sees."""

    def __init__(self, seen: Features, wanted: Reals) -> None:
        del seen
        self._mean = wanted.mean(axis=0, dtype=np.float32)

    def outputs(self, features: Features) -> Floats:
        return np.tile(self._mean, (len(features), 1))


class Memory:
    """Knows by heart what it was fitted to, and of anything else only the mean."""

    def __init__(self, seen: Features, wanted: Reals) -> None:
        self._known = {row.tobytes(): told for row, told in zip(seen.dense, wanted, strict=True)}
        self._mean = wanted.mean(axis=0)

    def outputs(self, features: Features) -> Floats:
        rows = [self._known.get(row.tobytes(), self._mean) for row in features.dense]
        return np.array(rows, dtype=np.float32)


def made(seen: Features, scores: Reals, fits: Mapping[str, Fit], folds: int = 4) -> Blended:
    prompts = [f"prompt {number}" for number in range(len(seen))]
    return blended(seen, scores, fits, folds_of(prompts, folds, 0), lambda _: None)


# ------------------------------------------------------------------------------------------ folds


def test_folds_share_out_the_rows_and_keep_equal_prompts_together() -> None:
    prompts = [f"Prompt  {number % 50}" for number in range(200)]
    prompts[50:100] = [prompt.upper().replace("  ", " ") for prompt in prompts[50:100]]
    folds = folds_of(prompts, 5, 0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(200))
    assert [len(fold) for fold in folds] == [40] * 5
    for fold in folds:
        assert len({row % 50 for row in fold.tolist()}) == 10, "all four of each prompt"


def test_folds_follow_from_the_seed() -> None:
    prompts = [f"{number}" for number in range(60)]
    same = [np.concatenate(folds_of(prompts, 3, 1)).tolist() for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != np.concatenate(folds_of(prompts, 3, 2)).tolist()


# ---------------------------------------------------------------------------------------- weights


def test_what_foretells_nothing_has_no_weight() -> None:
    seen = features()
    found = made(seen, outcomes(seen), {"nothing": Mean, "linear": Linear})
    assert found.blend.weights[0] == pytest.approx([0, 0], abs=1e-6)
    assert found.blend.weights[1, 1] == pytest.approx(1, abs=0.1)


def test_twice_the_same_block_counts_as_one() -> None:
    seen = features()
    twice = made(seen, outcomes(seen), {"one": Linear, "other": Linear})
    once = made(seen, outcomes(seen), {"one": Linear})
    assert twice.blend.weights.sum(axis=0)[1] == pytest.approx(once.blend.weights[0, 1], rel=1e-3)
    assert twice.unseen == pytest.approx(once.unseen, abs=1e-4)


def test_a_blend_expects_of_new_rows_what_comes() -> None:
    seen, new = features(), features(seed=5)
    quality = made(seen, outcomes(seen), {"linear": Linear, "nothing": Mean}).blend.quality(new)
    assert np.abs(quality - outcomes(new, noise=0.0)).mean() < 0.03


def test_a_slope_never_falls() -> None:
    rising = np.arange(5.0)
    assert slope(rising, 2 * rising) == pytest.approx(2)
    assert slope(rising, -rising) == 0
    assert slope(np.zeros(5), rising) == 0


# ---------------------------------------------------------------------------------------- unseen


def test_what_is_unseen_was_not_seen() -> None:
    """Scores by chance, and a block that knows every row of its training by heart."""
    seen = features()
    scores = np.random.default_rng(3).integers(0, 2, (ROWS, 2)).astype(float)
    found = made(seen, scores, {"memory": Memory, "linear": Linear})
    assert np.abs(found.unseen - scores).mean() > 0.4, "no better than the mean"
    gained = ((scores - scores.mean(axis=0)) ** 2).mean() - ((scores - found.unseen) ** 2).mean()
    assert gained < 0.02
    by_heart = Memory(seen, scores).outputs(seen)
    assert np.abs(by_heart - scores).mean() == 0, "or this test shows nothing"


def test_gaps_are_filled_without_what_is_held_back() -> None:
    """Scores by chance, one expert known on each row. Rows look alike in pairs of which the other
    expert is known on the second, so a gap that was filled from all rows tells the first's score.
    """
    pairs = 60
    own = np.tile(np.eye(pairs, dtype=np.float32) * 30, (2, 1))
    seen = Features(own, own[:, :0], ())
    scores = np.full((2 * pairs, 2), np.nan)
    scores[:pairs, 0], scores[pairs:, 1] = chance = np.random.default_rng(4).integers(
        0, 2, (2, pairs)
    )
    leak = filled(scores, seen)[pairs:, 0]
    assert np.abs(leak - chance[0]).mean() < 0.05, "or this test shows nothing"
    found = made(seen, scores, {"linear": Linear})
    told = found.unseen[:pairs, 0] + np.linspace(0, 1e-9, pairs)
    assert np.corrcoef(told, chance[0])[0, 1] < 0.35


def test_scores_without_gaps_stay_as_they_are() -> None:
    seen = features()
    scores = outcomes(seen)
    assert filled(scores, seen) is scores


def test_a_gap_is_filled_by_what_rows_like_it_got() -> None:
    seen = features()
    scores = outcomes(seen, noise=0.0)
    known = scores.copy()
    known[::3, 0] = np.nan
    found = filled(known, seen)
    assert found[1::3] == pytest.approx(scores[1::3]), "what is known is kept"
    assert np.abs(found - scores).mean() < 0.05
    assert np.isnan(known[::3, 0]).all(), "what was handed in is not changed"


def test_a_category_is_worth_what_came_in_it_drawn_to_the_mean_where_there_was_little() -> None:
    likely = np.array([[1.0, 0.0]] * 90 + [[0.0, 1.0]] * 10)
    wanted = np.array([[1.0]] * 90 + [[0.0]] * 10)
    means = by_category(likely, wanted)
    assert means[0, 0] == pytest.approx((90 + ORDINARY * 0.9) / (90 + ORDINARY))
    assert means[1, 0] == pytest.approx(ORDINARY * 0.9 / (10 + ORDINARY))


def test_the_block_of_categories_is_fitted_without_the_rows_that_it_is_weighed_by() -> None:
    """Labels that are pure chance, and a category for each row: only a leak could foretell them."""
    rng = np.random.default_rng(5)
    texts, _ = prompts(120)
    vectors = Hashing().embed(texts)
    seen = Features(vectors, vectors, ())
    scores = rng.integers(0, 2, (120, 2)).astype(float)
    alone = Categories(tuple(map(str, range(120))), np.arange(2, dtype=np.int32),
                       np.zeros((2, 120), np.float32), np.zeros(120, np.float32), 1.0)  # fmt: skip
    told = Classified(alone, np.eye(120))
    found = blended(seen, scores, {}, folds_of(texts, 4, 0), lambda _: None, told)
    assert found.blend.weights[-1, 1] == pytest.approx(0.0, abs=0.05)
    assert isinstance(found.blend.blocks[-1], Table)
