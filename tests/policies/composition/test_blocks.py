"""The blocks of a quality model: what scikit-learn says of the same data, one ask or many."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge

from policies.composition.blocks import (
    EDGE,
    Blend,
    Block,
    Categories,
    Familiar,
    Grams,
    Kernel,
    Table,
    gaussian,
    tfidf,
    within,
)
from policies.composition.features import Features, Layout
from policies.composition.lexical import Floats, grams, words_in
from policies.training.experts.fit import fit_forest, fit_grams, kernel_ridge
from policies.training.experts.recipe import Recipe
from tests.policies.composition.make_artifacts import prompts

ROWS, WIDTH, OUTPUTS = 120, 7, 3
RNG = np.random.default_rng(3)
DENSE = RNG.normal(size=(ROWS, WIDTH)).astype(np.float32)
WANTED = np.column_stack([DENSE[:, 0] > 0, DENSE[:, 1] * DENSE[:, 2], DENSE[:, 3]]).astype(float)
TEXTS = [text for several in prompts().values() for text in several]
RECIPE = Recipe(trees=12, leaf=3)


def features(dense: Floats = DENSE, texts: list[str] | None = None) -> Features:
    words = tuple(words_in(text) for text in texts or [])
    return Features(dense, dense[:, :2], words)


def columns(*which: int) -> Any:
    return np.array(which, np.int32)


# ------------------------------------------------------------------------- against scikit-learn


def test_a_forest_is_scikit_learns() -> None:
    which = columns(6, 1, 2, 3, 0)
    ours = fit_forest(features(), WANTED, which, RECIPE)
    theirs = ExtraTreesRegressor(
        RECIPE.trees,
        min_samples_leaf=RECIPE.leaf,
        max_features=RECIPE.columns_tried,
        random_state=RECIPE.seed,
    ).fit(DENSE[:, which], WANTED)
    new = RNG.normal(size=(300, WIDTH)).astype(np.float32)
    for rows in (DENSE, new):
        expected = theirs.predict(rows[:, which])
        np.testing.assert_allclose(ours.outputs(features(rows)), expected, atol=2e-3)  # float16


def test_a_threshold_divides_numbers_as_it_did_in_training() -> None:
    """Thresholds are float64 in training, and a number just above one must stay above it."""
    low = np.float32(1e6)
    rows = np.array([[low], [np.nextafter(low, np.float32(2e6))]] * 20)
    seen = Features(rows, rows[:, :0], ())
    forest = fit_forest(seen, np.repeat(rows > low, 2, axis=1).astype(float), columns(0), RECIPE)
    assert forest.outputs(seen.rows([0, 1])).tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_n_grams_are_weighed_as_scikit_learn_does() -> None:
    wanted = np.array([[len(text), "?" in text, text.count("e")] for text in TEXTS], float)
    wanted /= wanted.max(axis=0)
    seen = features(np.zeros((len(TEXTS), 2), np.float32), TEXTS)
    ours = fit_grams(seen.grams, wanted, Recipe(rarest=1, grams_penalty=1.0))
    theirs = TfidfVectorizer(
        analyzer=lambda text: grams(words_in(text)).elements(),
        vocabulary=dict(ours.vocabulary),
        sublinear_tf=True,
    )
    rows = theirs.fit_transform(TEXTS)
    np.testing.assert_allclose(theirs.idf_, ours.idf, rtol=1e-6)
    model = Ridge(1.0, solver="sparse_cg", tol=1e-4).fit(rows, wanted)
    new = [*TEXTS, "Something that was never seen", "", "Ω", "rain rain rain"]
    told = ours.outputs(features(np.zeros((len(new), 2), np.float32), new))
    np.testing.assert_allclose(told, model.predict(theirs.transform(new)), atol=2e-3)


def test_a_word_counts_alike_read_alone_and_remembered() -> None:
    """What is remembered of words is an index, and must not change what is counted."""
    wanted = np.array([[len(text) / 100] for text in TEXTS])
    seen = features(np.zeros((len(TEXTS), 2), np.float32), TEXTS)
    block = fit_grams(seen.grams, wanted, Recipe(rarest=1))
    text = "rain in Lisbon, rain in the sea, " + "averylongword" * 10
    for _ in range(2):
        told = block.outputs(features(np.zeros((1, 2), np.float32), [text]))
        where, values = tfidf(grams(words_in(text)), block.vocabulary, block.idf)
        np.testing.assert_allclose(told[0], values @ block.weights[where] + block.offset, atol=1e-6)


def test_a_kernel_is_scikit_learns_kernel_ridge() -> None:
    which, scale = columns(0, 1, 2), np.array([1, 0.5, 2], np.float32)
    rows = DENSE[:, which] * scale
    points, dual, offset = kernel_ridge(rows, WANTED, 0.3, 0.1, ROWS, 0)
    block = Kernel(which, scale, points, dual, offset, 0.3)
    theirs = KernelRidge(alpha=0.1, kernel="rbf", gamma=0.3).fit(rows, WANTED - WANTED.mean(axis=0))
    new = RNG.normal(size=(600, WIDTH)).astype(np.float32)
    expected = theirs.predict(new[:, which] * scale) + WANTED.mean(axis=0)
    np.testing.assert_allclose(block.outputs(features(new)), expected, atol=1e-4)


def test_categories_are_scikit_learns_logistic_regression() -> None:
    labels = (DENSE[:, 0] > 0).astype(int) + (DENSE[:, 1] > 0.5)
    model = LogisticRegression().fit(DENSE[:, [1, 0]], labels)
    weights, offset = model.coef_.T.astype(np.float32), model.intercept_.astype(np.float32)
    block = Categories(("a", "b", "c"), columns(1, 0), weights, offset, 1.0)
    expected = model.predict_proba(DENSE[:, [1, 0]])
    np.testing.assert_allclose(block.probabilities(features()), expected, atol=1e-5)
    cold = Categories(("a", "b", "c"), columns(1, 0), weights * 1e4, offset, 0.5)
    assert np.isfinite(cold.probabilities(features())).all()


def test_a_table_weighs_what_categories_say() -> None:
    likely = Categories(
        ("a", "b"), columns(0), np.zeros((1, 2), np.float32), np.zeros(2, np.float32), 1.0
    )
    table = Table(np.array([[1, 0], [0, 2]], np.float32), likely)
    assert table.outputs(features()).tolist() == [[0.5, 1.0]] * ROWS


def test_the_nearest_prompts_say_how_familiar_one_is() -> None:
    points = np.eye(3, dtype=np.float32)
    assert Familiar(points, 1).similarity(points).tolist() == [1.0] * 3
    assert Familiar(points, 2).similarity(points).tolist() == [0.5] * 3
    assert Familiar(points, 9).similarity(points[:1]).tolist() == pytest.approx([1 / 3])
    assert Familiar(points[:0], 9).similarity(points).tolist() == [1.0] * 3
    assert Familiar(points, 1).similarity(points[:0]).tolist() == []


# ---------------------------------------------------------------------------------- one or many


def every_block() -> dict[str, Block]:
    seen = features(np.zeros((len(TEXTS), 2), np.float32), TEXTS)
    wanted = np.array([[len(text) / 100, 0.5, 0.1] for text in TEXTS])
    points, dual, offset = kernel_ridge(DENSE[:, :3], WANTED, 0.3, 0.1, 50, 0)
    forest = fit_forest(features(), WANTED, columns(0, 1, 2), RECIPE)
    return {
        "grams": fit_grams(seen.grams, wanted, Recipe(rarest=1)),
        "kernel": Kernel(columns(0, 1, 2), np.ones(3, np.float32), points, dual, offset, 0.3),
        "forest": forest,
    }


@pytest.mark.parametrize("name", ["grams", "kernel", "forest"])
def test_many_asks_are_judged_as_one_by_one(name: str) -> None:
    block, texts = every_block()[name], (TEXTS * 8)[:600]
    many = features(RNG.normal(size=(600, WIDTH)).astype(np.float32), texts)
    whole = block.outputs(many)
    assert whole.dtype == np.float32
    single = np.vstack([block.outputs(many.rows([at])) for at in range(600)])
    np.testing.assert_allclose(whole, single, atol=1e-4)
    assert block.outputs(many.rows([])).shape == (0, OUTPUTS)


def test_words_are_remembered_by_many_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of words is emptied all the time, and nobody must notice."""
    monkeypatch.setattr("policies.composition.blocks._MOST_WORDS", 3)
    block = every_block()["grams"]
    assert isinstance(block, Grams)
    several = [features(np.zeros((1, 2), np.float32), [text]) for text in TEXTS]
    expected = [block.outputs(one).tolist() for one in several]
    wrong: list[int] = []

    def work(turn: int) -> None:
        order = [*range(turn, len(several)), *range(turn)]
        wrong.extend(at for at in order if block.outputs(several[at]).tolist() != expected[at])

    threads = [threading.Thread(target=work, args=(turn,)) for turn in (0, 20, 40, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ------------------------------------------------------------------------------------ the blend


class Says:
    """A block of a test's own."""

    def __init__(self, *outputs: float) -> None:
        self.said = outputs

    def outputs(self, asked: Features) -> Floats:
        return np.tile(np.array(self.said, np.float32), (len(asked), 1))


def test_blocks_are_weighed_apart_for_what_is_shared_and_what_differs() -> None:
    blocks = (Says(0.4, 0.1, -0.1), Says(0.2, 0.2, -0.2), Says(9.0, 9.0, 9.0))
    weights = np.array([[1, 0], [0.5, 1], [0, 0]], np.float32)
    blend = Blend(blocks, weights, np.array([0.1, 0.0, 0.05], np.float32))
    assert blend.quality(features())[0].tolist() == pytest.approx([0.8, 0.45])


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=9))
def test_a_quality_is_bent_into_its_range_and_keeps_its_order(values: list[float]) -> None:
    bent = within(np.array(values, np.float32))
    assert ((bent >= 0) & (bent <= 1)).all()
    order = np.argsort(values, kind="stable")
    assert (np.diff(bent[order]) >= 0).all()
    inside = [n for n, value in enumerate(values) if EDGE < value < 1 - EDGE]
    assert bent[inside].tolist() == np.array(values, np.float32)[inside].tolist()


def test_a_gaussian_is_one_at_no_distance() -> None:
    near = gaussian(DENSE[:4], DENSE[:4], 0.7)
    assert np.diag(near) == pytest.approx(np.ones(4), abs=1e-5)
    apart = ((DENSE[0] - DENSE[1]) ** 2).sum()
    assert near[0, 1] == pytest.approx(np.exp(-0.7 * apart), rel=1e-4)


def test_rows_of_features_are_chosen_with_their_words() -> None:
    seen = features(DENSE[:3], ["one", "two", "two three"])
    part = seen.rows([2, 0])
    assert part.words == (Counter(two=1, three=1), Counter(one=1))
    assert part.dense.tolist() == DENSE[[2, 0]].tolist()
    assert len(part) == 2
    assert Layout(1, 1, 1, 0).columns("prior").tolist() == []
