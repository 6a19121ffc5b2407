"""Texts made ready for asks: exact passages, vectors kept and given back, odd and large texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.composition.embedder import Floats
from policies.reading import index as indexes
from policies.reading.counting import tokens
from policies.reading.index import Index, TooLarge
from policies.reading.recipe import Recipe
from policies.reading.search import search
from policies.reading.words import Vocabulary, counted

SMALL = Recipe(chunk_tokens=32, overlap_tokens=8, pool=8)


def lengths(texts: Sequence[str]) -> Floats:
    """An embedder: vectors that tell texts of different lengths apart."""
    angles = np.array([len(text) / 100 for text in texts], np.float32)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@given(texts=st.lists(st.text(st.characters(), max_size=600), max_size=5))
@settings(max_examples=50, deadline=None)
def test_passages_are_the_documents_characters(texts: list[str]) -> None:
    index = Index(texts, SMALL)
    assert index.tokens == tuple(map(tokens, texts))
    for at in range(len(index.chunks)):
        passage = index.passage(at)
        assert passage.text == texts[passage.document][passage.start : passage.end]
        windows = np.flatnonzero(index.windows.owner == at).astype(np.int32)
        assert windows.tolist() == [*range(index.windows.first[at], index.windows.first[at + 1])]
        parts = index.read(windows)
        assert parts
        assert all(part in passage.text for part in parts)
        assert "".join("".join(parts).split()) == "".join(passage.text.split())


def test_vectors_come_once_and_go_with_the_texts() -> None:
    texts = [" ".join(f"Sentence {at} of {name}." for at in range(60)) for name in "ab"]
    index = Index(texts, SMALL)
    assert index.vectors() is None
    steps: list[int] = []
    index.complete(lengths, steps.append)
    assert sum(steps) == len(index.windows)
    assert not len(index.unread())
    index.learn([0], np.array([[0.5, 0.5]], np.float32))
    vectors = index.vectors()
    assert vectors is not None
    assert vectors == pytest.approx(lengths(index.read(range(len(index.windows)))), abs=1e-3)
    again = Index(texts, SMALL).with_vectors(vectors)
    assert again.whole
    assert not index.whole
    three = np.arange(3, dtype=np.int32)
    assert (again.known(three) == index.known(three)).all()
    with pytest.raises(ValueError, match="no shape for the vectors"):
        Index(texts[:1], SMALL).with_vectors(vectors)


def test_vectors_that_do_not_fit_are_refused() -> None:
    index = Index(["One. Two."], SMALL)
    for wrong in (np.zeros((2, 3), np.float32), np.zeros(3, np.float32)):
        with pytest.raises(ValueError, match="no shape for the vectors of 1 windows"):
            index.learn([0], wrong)
    index.learn([0], np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="vectors of 4 numbers, where others have 3"):
        index.learn([0], np.zeros((1, 4), np.float32))


def test_bytes_are_reckoned_with_the_vectors_to_come() -> None:
    index = Index(["One two three. " * 500], SMALL)
    index.learn([0], np.zeros((1, 384), np.float32))
    before = index.nbytes
    index.complete(lambda texts: np.zeros((len(texts), 384), np.float32))
    assert index.nbytes == before > len(index.windows) * 384 * 2


def test_too_large_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "LARGEST", 10)
    with pytest.raises(TooLarge, match=r"^12 characters are more than the 10 that can be indexed$"):
        Index(["six...", "six..."])


def test_too_many_tokens_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "MOST_TOKENS", 3)
    with pytest.raises(TooLarge, match=r"^4 tokens are more than the 3 that can be indexed$"):
        Index(["one two", "three four"])


def test_more_terms_than_numbers_are_still_found() -> None:
    """What has no number of its own shares one: found, with what it does not mean."""
    vocabulary = Vocabulary(most=4)
    pieces = [vocabulary.learn(piece.split()) for piece in ("a b c", "d e", "f g h i")]
    assert len(vocabulary) == 4
    assert [vocabulary.learn([term]) for term in "abcd"] == [[0], [1], [2], [3]]
    words = counted(pieces, vocabulary)
    scores = words.bm25([vocabulary.number("e")])
    assert scores[1] > 0
    assert Vocabulary().number("e") == -1


def test_many_threads_search_one_index() -> None:
    texts = [" ".join(f"Sentence {at} of {name}." for at in range(60)) for name in "abcd"]
    index, alone = Index(texts, SMALL), Index(texts, SMALL)
    asks = [f"sentence {at} of {name}" for at in range(8) for name in "abcd"]
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda ask: search(index, ask, SMALL, lengths), asks)]
    assert found == [search(alone, ask, SMALL, lengths) for ask in asks]


def test_a_thousand_documents() -> None:
    texts = [f"Report {at}: the yield of field {at * 7} was {at + 3} tons." for at in range(1000)]
    index = Index(texts)
    assert len(index.chunks) == 1000
    assert search(index, "the yield of field 4753", Recipe(), lengths).passages[0].document == 679


ODD = {
    "Arabic": ("القط جلس على السجادة. " * 50 + "الكلب نام في الحديقة. " * 50, "أين نام الكلب"),
    "Chinese": ("猫坐在垫子上。" * 50 + "狗睡在花园里。" * 50, "狗睡在哪里"),
    "Thai": ("แมวนั่งบนเสื่อ " * 50 + "สุนัขนอนในสวน " * 50, "สุนัขนอนที่ไหน"),
    "one line": (
        "the cat sat on the mat " * 300 + "the dog slept in the garden " * 300,
        "dog slept",
    ),
}


@pytest.mark.parametrize(("text", "ask"), ODD.values(), ids=ODD)
def test_other_scripts_are_searched(text: str, ask: str) -> None:
    index = Index([text], SMALL)
    assert len(index.chunks) > 4
    best = search(index, ask, SMALL, None).passages[0]
    assert best.start >= len(text) / 3


@pytest.mark.parametrize("text", ["", " \n\t", "a", "....", "\ud800", "\x00" * 500, "\u0301" * 500])
def test_next_to_nothing_is_searched(text: str) -> None:
    for ask in ("", "what?", "\ud800"):
        for embed in (None, lengths):
            passages = search(Index([text, ""]), ask, Recipe(), embed).passages
            assert [each.text for each in passages] == ([text] if text.strip() else [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prose", "no blanks", "junk"])
def test_twenty_megabytes(kind: str) -> None:
    rng = random.Random(0)
    text = {
        "prose": lambda: " ".join(
            f"In year {at} nothing of note was seen." for at in range(480_000)
        ),
        "no blanks": lambda: "".join(rng.choices("abcdefgh", k=20_000_000)),
        "junk": lambda: rng.randbytes(13_000_000).decode("latin-1"),
    }[kind]()
    assert len(text.encode()) > 19_000_000
    ask = "What was seen in year 271828?" if kind == "prose" else text[12_000_000:12_000_090]
    index = Index([text])
    passages = search(index, ask, Recipe(), lengths).passages
    assert len(passages) == Recipe().keep
    if kind == "prose":
        assert "year 271828 " in passages[0].text
