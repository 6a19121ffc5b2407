"""Categories: given, found, named; and a classifier whose confidence is honest."""

from __future__ import annotations

import numpy as np
import pytest

from policies.composition.features import Features, Layout
from policies.composition.lexical import Floats
from policies.training.experts.blending import folds_of
from policies.training.experts.fit import Reals
from policies.training.experts.kinds import (
    Kinds,
    classified,
    found,
    given,
    several,
    temperature,
)
from policies.training.experts.recipe import Recipe
from policies.training.experts.worth import calibration_error

WIDTH = 6
LAYOUT = Layout(embedding=WIDTH, directions=0, lexical=2, prior=0)


def features(vectors: Floats) -> Features:
    """These embeddings, and lexical numbers that say nothing."""
    noise = np.random.default_rng(9).normal(size=(len(vectors), 2)).astype(np.float32)
    return Features(np.hstack([vectors, noise]), vectors, ())


def blobs(centres: int, rows: int, spread: float, seed: int = 0) -> tuple[Features, np.ndarray]:
    """Embeddings around some axes, larger blobs first; and which blob each is of."""
    rng = np.random.default_rng(seed)
    parts = np.arange(centres, 0, -1, dtype=float)
    kinds = np.sort(rng.choice(centres, rows, p=parts / parts.sum()))
    vectors = np.eye(WIDTH)[kinds] + rng.normal(scale=spread, size=(rows, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return features(vectors.astype(np.float32)), kinds


def names(kinds: Kinds) -> list[str]:
    return [category.name for category in kinds.categories]


# ------------------------------------------------------------------------------- given and found


def test_tasks_are_categories_the_largest_first() -> None:
    tasks = ["sums"] * 12 + ["other"] * 30 + ["poems"] * 20 + ["rare"] * 9
    prompts = ["add these numbers"] * 12 + ["say something"] * 30 + ["rhyme, poet"] * 20
    kinds = given(tasks, [*prompts, *["seldom seen"] * 9])
    assert names(kinds) == ["poems", "sums", "other"]
    assert kinds.source == "task"
    assert np.bincount(kinds.of_rows).tolist() == [20, 12, 39], "small tasks are put together"
    assert sum(category.share for category in kinds.categories) == pytest.approx(1)
    assert set(kinds.categories[0].words) == {"rhyme", "poet"}


def test_tasks_that_tell_nothing_apart_are_no_categories() -> None:
    assert several(["a"] * 20 + ["b"])
    assert not several(["a"] * 20)
    assert not several([f"task {number}" for number in range(100)]), "a task of its own each"


def test_planted_clusters_are_found_again() -> None:
    seen, planted = blobs(4, 200, 0.1)
    words = ["river bank", "royal throne", "sum total", "quiet garden"]
    kinds = found(seen, LAYOUT, [words[kind] for kind in planted], Recipe(clusters=4))
    assert kinds.of_rows.tolist() == planted.tolist(), "numbered by their size"
    assert kinds.source == "clusters"
    assert [set(name.split("-")) for name in names(kinds)] == [set(each.split()) for each in words]
    assert [category.share for category in kinds.categories] == pytest.approx(
        (np.bincount(planted) / 200).tolist()
    )


def test_names_are_distinct_and_there_without_words() -> None:
    seen, _ = blobs(3, 90, 0.1)
    assert names(found(seen, LAYOUT, ["12 + 3"] * 90, Recipe(clusters=3))) == [
        "cluster",
        "cluster-2",
        "cluster-3",
    ]


def test_no_more_clusters_than_different_prompts() -> None:
    vectors = np.eye(WIDTH, dtype=np.float32)[np.arange(60) % 2]
    kinds = found(features(vectors), LAYOUT, ["again and again"] * 60, Recipe(clusters=5))
    assert len(kinds.categories) == 2


def test_the_number_of_clusters_follows_from_the_rows() -> None:
    seen, _ = blobs(4, 750, 0.1)
    assert len(found(seen, LAYOUT, ["some words"] * 750, Recipe()).categories) == 5
    few, _ = blobs(4, 100, 0.1)
    assert len(found(few, LAYOUT, ["some words"] * 100, Recipe()).categories) == 4


# -------------------------------------------------------------------------------- the classifier


def told(centres: int, rows: int, spread: float) -> tuple[Reals, np.ndarray]:
    """What the classifier says of planted blobs unseen."""
    seen, planted = blobs(centres, rows, spread)
    prompts = [f"{number}" for number in range(rows)]
    kinds = given([f"kind {kind}" for kind in planted], prompts)
    learned = classified(seen, LAYOUT, kinds, folds_of(prompts, 3, 0))
    assert learned.categories.names == tuple(names(kinds))
    return learned.unseen, kinds.of_rows


@pytest.mark.parametrize("centres", [2, 4])
def test_kinds_are_told_apart(centres: int) -> None:
    unseen, of_rows = told(centres, 200, 0.1)
    assert unseen.sum(axis=1) == pytest.approx(1)
    assert (unseen.argmax(axis=1) == of_rows).mean() > 0.95


def test_confidence_is_honest() -> None:
    """Blobs that overlap: whoever says 70 % is right on 70 % of rows that it has not seen."""
    unseen, of_rows = told(3, 800, 0.9)
    right = unseen.argmax(axis=1) == of_rows
    assert 0.4 < right.mean() < 0.9
    assert calibration_error(unseen.max(axis=1), right.astype(float)) < 0.07


def test_a_temperature_undoes_too_much_confidence() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = (rng.random((4000, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    assert temperature(3 * logits, drawn) == pytest.approx(3, rel=0.15)
    assert temperature(logits / 2, drawn) == pytest.approx(0.5, rel=0.15)


def test_one_category_is_certain() -> None:
    seen, _ = blobs(2, 60, 0.1)
    prompts = [f"{number}" for number in range(60)]
    learned = classified(seen, LAYOUT, given(["all"] * 60, prompts), folds_of(prompts, 3, 0))
    assert learned.categories.probabilities(seen).tolist() == [[1.0]] * 60


def test_two_categories_are_as_sure_as_one_logistic_curve() -> None:
    """scikit-learn tells two apart by one row of weights; here each has its own."""
    seen, planted = blobs(2, 200, 0.4)
    prompts = [f"{number}" for number in range(200)]
    kinds = given([f"kind {kind}" for kind in planted], prompts)
    likely = classified(seen, LAYOUT, kinds, folds_of(prompts, 3, 0)).categories.probabilities(seen)
    right = likely[np.arange(200), kinds.of_rows]
    assert (right > 0.5).mean() > 0.9
    assert -np.log(right).mean() < 0.3


def test_a_category_that_a_fold_lacks_is_unlikely_there() -> None:
    seen, planted = blobs(2, 60, 0.1)
    prompts = [f"{number}" for number in range(60)]
    kinds = given([f"kind {kind}" for kind in planted], prompts)
    last = np.flatnonzero(kinds.of_rows == 1)
    learned = classified(seen, LAYOUT, kinds, [last, np.flatnonzero(kinds.of_rows == 0)])
    assert np.isfinite(learned.unseen).all()
    assert (learned.unseen[last, 1] < 0.5).all()
