"""The blocks: their shapes, their seeds, and that they say what the libraries that fit them say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.feature_extraction.text import TfidfTransformer

from policies.composition.blocks import Block, Forest, Grams, Kernel, tfidf
from policies.composition.features import Features, Layout
from policies.composition.lexical import Floats, grams, words_in
from policies.training.experts.fit import (
    Reals,
    _forest,
    counted,
    fit_kernel,
    fits,
    kernel_ridge,
    targets,
)
from policies.training.experts.recipe import Recipe
from tests.policies.training.experts.planted import QUICK, Hashing, planted, prompts

LAYOUT = Layout(embedding=32, directions=4, lexical=3, prior=2)


def features(rows: int = 120, seed: int = 0) -> Features:
    texts, _ = prompts(rows, seed)
    vectors = Hashing().embed(texts)
    rest = np.random.default_rng(seed).normal(size=(rows, 9)).astype(np.float32)
    return Features(np.hstack([vectors, rest]), vectors, tuple(map(words_in, texts)))


@pytest.fixture(scope="module")
def wanted() -> Reals:
    return targets(planted(120).scores)


def test_targets_part_what_is_shared_from_what_differs() -> None:
    found = targets(np.array([[1.0, 0.0, 0.5], [0.2, 0.2, 0.2]]))
    assert found == pytest.approx(np.array([[0.5, 0.5, -0.5, 0.0], [0.2, 0.0, 0.0, 0.0]]))


def test_every_block_gives_an_output_for_the_mean_and_each_expert(wanted: Reals) -> None:
    seen, new = features(), features(7, seed=1)
    for name, fit in fits(LAYOUT, QUICK).items():
        outputs = fit(seen, wanted).outputs(new)
        assert outputs.shape == (7, 3), name
        assert outputs.dtype == np.float32, name
        assert np.isfinite(outputs).all(), name
        assert fit(seen, wanted).outputs(new.rows([])).shape == (0, 3), name


def test_without_an_embedder_nothing_reads_embeddings() -> None:
    found = fits(Layout(embedding=0, directions=0, lexical=3, prior=0), QUICK)
    assert set(found) == {"grams", "forest"}


def test_the_same_seed_gives_the_same_blocks(wanted: Reals) -> None:
    seen, new = features(), features(20, seed=1)

    def outputs(recipe: Recipe) -> list[Floats]:
        blocks: list[Block] = [fit(seen, wanted) for fit in fits(LAYOUT, recipe).values()]
        return [block.outputs(new) for block in blocks]

    few_points = replace(QUICK, most_points=50)
    for one, other in zip(outputs(few_points), outputs(few_points), strict=True):
        assert (one == other).all()
    changed = outputs(replace(few_points, seed=1))
    assert any(
        (one != other).any() for one, other in zip(outputs(few_points), changed, strict=True)
    )


# --------------------------------------------------------------------------------------- n-grams


def test_tf_idf_is_that_of_scikit_learn() -> None:
    texts, _ = prompts(60)
    rows = [grams(words_in(text)) for text in texts]
    seen = counted(rows, replace(QUICK, rarest=1))
    counts = np.zeros((60, len(seen.vocabulary)))
    for at, row in enumerate(rows):
        for gram, times in row.items():
            counts[at, seen.vocabulary[gram]] = times
    wanted = TfidfTransformer(sublinear_tf=True).fit_transform(counts).toarray()
    assert seen.rows.toarray() == pytest.approx(wanted, abs=1e-5)
    where, values = tfidf(rows[3], seen.vocabulary, seen.idf)
    assert values == pytest.approx(wanted[3, where], abs=1e-5)


def test_the_commonest_grams_are_kept() -> None:
    texts, _ = prompts(200)
    rows = [grams(words_in(text)) for text in texts]
    few = counted(rows, replace(QUICK, most_grams=20))
    assert len(few.vocabulary) == 20
    assert list(few.vocabulary.values()) == list(range(20))
    within = {gram: sum(gram in row for row in rows) for gram in set().union(*rows)}
    rarest = min(within[gram] for gram in few.vocabulary)
    assert sum(count > rarest for count in within.values()) <= 20
    assert all(within[gram] >= 3 for gram in counted(rows, QUICK).vocabulary)


def test_grams_learn_a_rule(wanted: Reals) -> None:
    seen = features()
    block = fits(LAYOUT, QUICK)["grams"](seen, wanted)
    assert isinstance(block, Grams)
    new = features(40, seed=3)
    ahead = block.outputs(new)[:, 1] > 0
    assert (ahead == (np.arange(40) % 2 == 0)).mean() > 0.9


# ------------------------------------------------------------------------------------- the kernel


def test_some_of_the_points_come_close_to_all() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 3)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    wanted = np.column_stack([np.sin(3 * rows[:, 0]), rows[:, 1] ** 2])
    new = rows[::7] + np.float32(0.01)

    def outputs(most: int) -> Floats:
        points, dual, offset = kernel_ridge(rows, wanted, 1.0, 0.1, most, 0)
        assert len(points) == min(most, 500)
        kernel = Kernel(
            np.arange(3, dtype=np.int32), np.ones(3, np.float32), points, dual, offset, 1.0
        )
        return kernel.outputs(Features(new, new, ()))

    full = outputs(1000)
    assert np.abs(outputs(100) - full).max() < 0.05
    assert np.abs(full - np.column_stack([np.sin(3 * new[:, 0]), new[:, 1] ** 2])).mean() < 0.05


def test_a_kernel_reads_the_embedding_and_the_form(wanted: Reals) -> None:
    block = fit_kernel(features(), wanted, LAYOUT, QUICK)
    assert block.columns.tolist() == [*range(32), 36, 37, 38]
    assert block.scale[32:] == pytest.approx([QUICK.lexical_scale] * 3)


# ------------------------------------------------------------------------------------ the forests


def test_a_forest_says_what_scikit_learns_says() -> None:
    """But for the leaves, which are kept in half precision."""
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 4, (300, 5)).astype(np.float32)  # many ties with thresholds
    wanted = rng.random((300, 2))
    columns = np.array([4, 1, 2], dtype=np.int32)
    theirs = ExtraTreesRegressor(12, min_samples_leaf=3, random_state=0).fit(
        dense[:, columns], wanted
    )
    ours = _forest([tree.tree_ for tree in theirs.estimators_], columns)
    assert isinstance(ours, Forest)
    new = rng.integers(-1, 5, (200, 5)).astype(np.float32)
    told = ours.outputs(Features(new, new[:, :0], ()))
    assert told == pytest.approx(theirs.predict(new[:, columns]), abs=1e-3)


def test_thresholds_are_kept_below_what_goes_right() -> None:
    """Rounded up, a threshold would send a number to the other side."""
    low = np.float32(1000)
    high = np.nextafter(low, np.float32(1001))
    dense = np.array([[low], [high]] * 20, dtype=np.float32)
    wanted = np.array([[0.0, 0.0], [1.0, 1.0]] * 20)
    theirs = ExtraTreesRegressor(30, random_state=0).fit(dense, wanted)
    ours = _forest([tree.tree_ for tree in theirs.estimators_], np.zeros(1, np.int32))
    assert ours.outputs(Features(dense, dense[:, :0], ())) == pytest.approx(theirs.predict(dense))
