"""From an ask to passages: seats, order, what may and what must not change them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.composition.embedder import Floats
from policies.reading.index import Index
from policies.reading.measures import NAMES, Measures
from policies.reading.recipe import Recipe
from policies.reading.search import candidates, ranked, search
from policies.reading.terms import terms

WIDE = 64
TOPICS = ("whales", "turbines", "orchids", "glaciers", "violins", "ledgers", "comets", "bridges")


def by_words(texts: Sequence[str]) -> Floats:
    """An embedder: every term has its own direction, as far as these go."""
    vectors = np.full((len(texts), WIDE), 1e-3, np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for term in terms(text):
            row[zlib.crc32(term.encode("utf-8", "replace")) % WIDE] += 1
    found: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


def story(topic: str, sentences: int = 12) -> str:
    """A paragraph about one thing."""
    said = (f"Of {topic} number {at} it is written that they endure." for at in range(sentences))
    return " ".join(said)


def book() -> str:
    return "\n\n".join(map(story, TOPICS))


SMALL = Recipe(chunk_tokens=64, overlap_tokens=12, pool=8)


@pytest.fixture(scope="module")
def index() -> Index:
    return Index([book()], SMALL)


def test_the_passage_that_answers_comes_first(index: Index) -> None:
    for embed in (None, by_words):
        hits = search(index, "What is written of orchids number 7?", SMALL, embed)
        assert "orchids number 7" in hits.passages[0].text
        assert len(hits.passages) == SMALL.keep
        scores = [passage.score for passage in hits.passages]
        assert scores == sorted(scores, reverse=True)
        assert all(p.text == book()[p.start : p.end] for p in hits.passages)
        assert hits.measures.dense == (embed is not None)


@given(asks=st.permutations(TOPICS))
@settings(max_examples=10, deadline=None)
def test_what_was_asked_before_changes_nothing(asks: Sequence[str]) -> None:
    fresh, used = Index([book()], SMALL), Index([book()], SMALL)
    for ask in asks[1:]:
        search(used, ask, SMALL, by_words)
    half = search(used, asks[0], SMALL, by_words)
    used.complete(by_words)
    assert half == search(used, asks[0], SMALL, by_words) == search(fresh, asks[0], SMALL, by_words)


def test_in_phases_it_is_the_same(index: Index) -> None:
    other = Index([book()], SMALL)
    pool = candidates(other, "glaciers endure", SMALL)
    assert pool.missing()
    with pytest.raises(ValueError, match="no vectors yet"):
        ranked(pool, by_words(["glaciers endure"])[0])
    pool.learn(by_words(pool.missing()))
    again = candidates(other, "glaciers endure", SMALL)
    assert not again.missing()
    hits = ranked(again, by_words(["glaciers endure"])[0])
    assert hits == search(index, "glaciers endure", SMALL, by_words)


def test_the_best_by_words_and_by_vectors_have_their_seats() -> None:
    texts = ["alpha beta gamma alpha", *(f"alpha and more of {at}" for at in range(8)), "nothing"]
    recipe = Recipe(lexical=1, dense=1, keep=2, pool=10)

    def contrary(asked: Sequence[str]) -> Floats:
        """Near to the ask is what holds no word of it."""
        near = [text in {"nothing", "alpha beta gamma"} for text in asked]
        return np.array([[1.0, 0.0] if each else [0.0, 1.0] for each in near], np.float32)

    found = search(Index(texts, recipe), "alpha beta gamma", recipe, contrary).passages
    assert {passage.document for passage in found} == {0, 9}


def test_a_whole_index_finds_what_shares_no_word() -> None:
    texts = [f"alpha {at} alpha {at}" for at in range(30)] + ["omega"]
    recipe = Recipe(lexical=1, dense=1, keep=2, pool=4)

    def near(asked: Sequence[str]) -> Floats:
        return np.array([[1, 0] if "omega" in t or "?" in t else [0, 1] for t in asked], np.float32)

    index = Index(texts, recipe)
    assert 30 not in {p.document for p in search(index, "alpha?", recipe, near).passages}
    index.complete(near)
    assert 30 not in {p.document for p in search(index, "alpha?", recipe, near).passages}
    vectors = index.vectors()
    assert vectors is not None
    whole = Index(texts, recipe).with_vectors(vectors)
    assert 30 in {p.document for p in search(whole, "alpha?", recipe, near).passages}
    half, full = (search(each, "alpha?", recipe, near).measures for each in (index, whole))
    assert half == full


def test_an_ask_without_a_word_in_common_looks_all_over_the_text(index: Index) -> None:
    pool = candidates(index, "zzz", Recipe(pool=8))
    assert len(index.chunks) > 16
    assert pool.chunks[0] == 0
    assert pool.chunks[-1] > len(index.chunks) * 3 / 4


@given(ask=st.text(max_size=60), texts=st.lists(st.text(max_size=200), max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_ask_of_any_texts_has_finite_measures(ask: str, texts: list[str]) -> None:
    for embed in (None, by_words):
        hits = search(Index(texts, SMALL), ask, SMALL, embed)
        row = hits.measures.row()
        assert len(row) == len(NAMES)
        assert all(map(math.isfinite, row))
        assert len({(p.document, p.start) for p in hits.passages}) == len(hits.passages)


def test_measures_tell_a_match_from_none(index: Index) -> None:
    good, bad, none = (
        search(index, ask, SMALL, by_words).measures
        for ask in ("comets number 3", "comets and quasars of the abyss", "quasars abyss")
    )
    assert good.absent == 0 < bad.absent < none.absent == 1
    assert good.coverage == pytest.approx(1)
    assert good.coverage > bad.coverage > none.coverage
    assert good.bound > bad.bound > none.bound == 0
    assert good.dense_spread >= 0
    assert Measures().row() == (0.0,) * len(NAMES)


def test_places_far_apart_are_told() -> None:
    recipe = Recipe(chunk_tokens=64, overlap_tokens=0)
    near = Index(["\n\n".join([story("a"), story("whales"), *map(story, "bcdefgh")])], recipe)
    measures = search(near, "whales", recipe, by_words).measures
    both = search(near, "whales h", recipe, by_words).measures
    assert measures.second == 0 < both.second
