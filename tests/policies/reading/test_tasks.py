"""Telling tasks: what serves says what was fitted, and says it honestly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.composition.ask import Ask
from policies.composition.embedder import minilm
from policies.reading.artifact import opened, write_artifact
from policies.reading.documents import TASKS
from policies.reading.measures import Measures
from policies.reading.table import published
from policies.reading.tasks import TaskJudge, worded
from policies.reading.wording import frame, ngrams, outline, tokens
from policies.training.context.fit import fit_head
from policies.training.context.pipeline import Trained, asks_in
from tests.policies.reading.lessons import MEASURES, QUICK, asked, searched, trained


@pytest.fixture(scope="module")
def lesson() -> Trained:
    return trained()


@pytest.fixture(scope="module")
def judge(lesson: Trained, tmp_path_factory: pytest.TempPathFactory) -> TaskJudge:
    folder = tmp_path_factory.mktemp("context")
    write_artifact(folder, lesson.card, lesson.parts, published())
    return opened(folder)[1]


def test_tasks_of_questions_unseen_are_told(lesson: Trained) -> None:
    alone, measured = (lesson.card.metrics[name] for name in ("alone", "measured"))
    assert 0.6 < alone["accuracy"] < measured["accuracy"]
    assert measured["nats"] < alone["nats"]


def test_serving_equals_training(lesson: Trained, judge: TaskJudge) -> None:
    """On the same rows, from the folder, each head as it was fitted."""
    rows = asked()
    asks = asks_in(rows.questions)
    question = judge.question(asks)
    found = searched(rows).rows
    assert lesson.measured is not None
    assert judge.units is not None
    alone = lesson.alone.head.probabilities(question)
    measured = lesson.measured.head.probabilities(question.beside(judge.units.of(found)))
    np.testing.assert_array_equal(judge.probabilities(asks), alone)
    np.testing.assert_array_equal(judge.probabilities(asks, found), measured)
    assert np.abs(alone - measured).max() > 0.01


def test_a_row_alone_is_judged_as_among_others(judge: TaskJudge) -> None:
    rows = asked(12)
    asks = asks_in(rows.questions)
    found = searched(rows).rows
    together = judge.probabilities(asks, found)
    for at, ask in enumerate(asks):
        measures = Measures(**dict(zip(MEASURES, found[at].tolist(), strict=True)))
        assert judge.judge(ask, measures) == pytest.approx(together[at], abs=1e-6)


def test_the_parts_are_one_regression() -> None:
    """A head cut into parts says what scikit-learn's whole says."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = asked()
    question = worded(asks_in(rows.questions), _features(rows.questions))
    head = fit_head(question, rows.labels(), rows.groups, QUICK)
    said = [[token.lower() for token in tokens(text)] for text in rows.questions]
    same = TfidfVectorizer(
        tokenizer=lambda parts: parts, preprocessor=lambda parts: parts, token_pattern=None,
        lowercase=False, ngram_range=(1, 3), sublinear_tf=True,
    ).fit_transform(said)  # fmt: skip
    order = [head.words.vocabulary[name] for name in sorted(head.words.vocabulary)]
    expected = same @ head.words.weights[order]
    counted = [ngrams(each, 3) for each in said]
    np.testing.assert_allclose(head.words.outputs(counted), expected, atol=1e-5)


def _features(questions: tuple[str, ...]):  # type: ignore[no-untyped-def]  # noqa: ANN202
    from policies.composition.features import forms, units
    from policies.reading.artifact import reading_of

    asks = asks_in(questions)
    return reading_of(units(forms(asks)), None, None).features(asks)


def test_measures_count(judge: TaskJudge) -> None:
    """What the text does not speak of is likelier not to be answered by it."""
    ask = Ask("What is the number of ships that Anna had in Jena?")
    hallu = TASKS.index("hallu")
    absent, there = (judge.judge(ask, Measures(absent=value))[hallu] for value in (4.0, -1.0))
    assert absent > there


def test_measures_without_vectors_are_no_measures_with(judge: TaskJudge) -> None:
    """Zeros in place of cosines are nothing that was trained on."""
    dense = replace(judge, measures=("absent", "cosine", "spread"))
    ask = Ask("What is the number of ships?")
    assert dense.judge(ask, Measures(absent=3.0)) == dense.judge(ask)
    assert dense.judge(ask, Measures(absent=3.0, dense=1.0)) != dense.judge(ask)
    assert judge.judge(ask, Measures(absent=3.0)) != judge.judge(ask)


@given(st.text(max_size=300))
def test_any_text_is_judged(judge: TaskJudge, text: str) -> None:
    likely = judge.judge(Ask(text, len(text)))
    assert sum(likely) == pytest.approx(1, abs=1e-5)
    assert min(likely) >= 0
    assert judge.judge(Ask(text, len(text))) == likely


@pytest.mark.slow
def test_with_the_embedder_that_ships(tmp_path: Path) -> None:
    made = trained(minilm(), measured=False)
    write_artifact(tmp_path, made.card, made.parts, published())
    artifact, judge = opened(tmp_path)
    assert artifact.card.embedding is not None
    rows = asked(8)
    likely = judge.probabilities(asks_in(rows.questions))
    assert (likely.argmax(axis=1) == rows.labels())[:6].all()
    assert judge.judge(asks_in(rows.questions[:1])[0], Measures()) == pytest.approx(
        likely[0], abs=1e-4
    )


def test_a_frame_has_no_names_and_no_numbers() -> None:
    said = tokens("How did Flexible Solutions change from March 31, 2024, to 2025?")
    assert frame(said) == [
        *("how", "did", "Xx", "change", "from", "Xx", "9", ",", "9", ",", "to", "9", "?")
    ]


def test_an_outline_has_no_rare_words() -> None:
    framed = frame(tokens("How does the grey cold harbour of Jena compare to Elba?"))
    said = outline(framed, {"how", "does", "the", "of", "Xx", "compare", "to", "?"})
    assert " ".join(said) == "<s> how does the _ of Xx compare to Xx ? </s>"


@given(st.text())
def test_a_frame_is_no_longer_than_its_text(text: str) -> None:
    said = tokens(text)
    assert len(frame(said)) <= len(said)
    assert sum(ngrams(said, 1).values()) == len(said)
