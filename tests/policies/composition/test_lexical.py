"""What is seen of a text without understanding it: numbers that are finite, n-grams that add up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from policies.composition.ask import Ask
from policies.composition.features import CLIP, Layout, Units, forms, units
from policies.composition.lexical import GRAMS, NAMES, grams, lexical, words_in

TEXTS = st.text(max_size=200) | st.sampled_from(
    ["", " ", "\n\n", "\ud800", "A" * 5000, "1,2.3" * 9]
)


def named(text: str) -> dict[str, float]:
    return dict(zip(NAMES, lexical(Ask(text, len(text))).tolist(), strict=True))


@given(text=TEXTS, sizes=st.tuples(*[st.integers(0, 10**9)] * 4))
def test_all_numbers_are_finite(text: str, sizes: tuple[int, int, int, int]) -> None:
    values = lexical(Ask(text, *sizes))
    assert values.shape == (len(NAMES),)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


def test_what_a_multiple_choice_looks_like() -> None:
    seen = named("Which of the following is NOT prime?\nA. 7\nB) 11\n(C) 12\nD: 13 or 17\n")
    assert seen["options"] == pytest.approx(np.log1p(4))
    assert seen["numeric_options"] == 1.0
    assert seen["stem_length"] == pytest.approx(np.log1p(37))
    assert seen["which_of"] == 1.0
    assert seen["negated"] == pytest.approx(np.log1p(1))


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        ("def work(x):\n    return x;\n", 3),
        ("```\n#include <x>\n```", 3),
        ("import a; b => c", 2),
        ("I define classes and returned; yes", 0),
        ("a function;", 2),
    ],
)
def test_signs_of_code_are_counted(text: str, signs: int) -> None:
    assert named(text)["code"] == pytest.approx(np.log1p(signs))


def test_languages_differ() -> None:
    english = named("What is the name of the one who had all of it?")
    chinese = named("什么是人工智能 artificial")
    assert english["english"] > 0.8
    assert (english["cjk"], english["non_ascii"]) == (0.0, 0.0)
    assert chinese["cjk"] == pytest.approx(7 / 18)
    assert chinese["english"] == 0.0


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=120))
def test_n_grams_are_those_of_scikit_learn(text: str) -> None:
    """`char_wb`; a word shorter than an n-gram counts once for each length, as there."""
    vectorizer = CountVectorizer(analyzer="char_wb", ngram_range=GRAMS, lowercase=True)
    theirs = Counter(vectorizer.build_analyzer()(text))
    ours = grams(words_in(text))
    short = {gram for gram in ours if gram.startswith(" ") and gram.endswith(" ")}
    assert {g: n for g, n in ours.items() if g not in short} == {
        g: n for g, n in theirs.items() if g not in short
    }


def test_units_cut_off_and_leave_alone_what_never_varies() -> None:
    rows = np.array([[0.0, 5.0], [2.0, 5.0]], np.float32)
    found = units(rows)
    assert found.spread.tolist() == [1.0, 1.0]
    assert found.of(np.array([[100.0, 5.0]], np.float32)).tolist() == [[CLIP, 0.0]]
    assert Units(found.centre, found.spread).of(rows).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_the_parts_of_a_row_stand_side_by_side() -> None:
    layout = Layout(embedding=3, directions=2, lexical=4, prior=1)
    assert layout.columns("embedding").tolist() == [0, 1, 2]
    assert layout.columns("lexical", "prior").tolist() == [5, 6, 7, 8, 9]
    assert forms([]).shape == (0, len(NAMES))
