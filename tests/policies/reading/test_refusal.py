"""Refusals: told apart from answers, whatever follows, and held back no longer than needed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.reading.refusal import HEAD, refuses, undecided

REFUSALS = (
    "The provided text does not mention any such plan.",
    "There is no information about the price in the given chunks.",
    "unanswerable",
    "**Unanswerable**",
    "This question is unanswerable.",
    "Unfortunately, the report doesn\u2019t explicitly state the color of the flower.",
    "Not provided in the given information.",
    "None are mentioned. The company states that it is small.",
    "I cannot determine the date from the excerpts.",
    "No robe color is mentioned in the provided text.",
    "The growth rate was not disclosed by Cepton, Inc. in its report.",
    "Der Text enthält dazu keine Angaben.",
    "Le texte ne mentionne pas la date.",
    "El texto no menciona la fecha.",
    "Il testo non menziona la data.",
    "O texto não menciona a data.",
    "\u6587\u4e2d\u6ca1\u6709\u63d0\u5230\u8fd9\u4e2a\u65e5\u671f\u3002",
    "\u672c\u6587\u306b\u306f\u305d\u306e\u8a18\u8f09\u304c\u3042\u308a\u307e\u305b\u3093\u3002",
)
ANSWERS = (
    "",
    "$1,126,712",
    "Wild birds.",
    "The company did not pay a dividend in 2023.",
    "He was not afraid of the sea, and he had no money.",
    "The question whether it was unanswerable occupied him.",
    "Revenue rose by 4 %. Costs fell. Other details are not given.",
    "Das Unternehmen zahlte 2023 keine Dividende.",
    "Nadie dijo que no.",
)


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals_are_seen(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_are_none(answer: str) -> None:
    assert not refuses(answer)


@pytest.mark.parametrize("answer", REFUSALS + ANSWERS)
def test_what_was_decided_stays(answer: str) -> None:
    stays(answer + " There is more. And more follows, at length.")


pieces = st.sampled_from(
    ["The text ", "does not ", "do", "es no", "t mention ", "no ", "information ", "give", "n",
     ". ", "! \n", "Inc. ", " ", "\u3002", "provided", "there is ", "x" * 40, "unanswerable"]
)  # fmt: skip


@given(st.lists(st.one_of(pieces, st.text(max_size=5)), max_size=30).map("".join))
def test_no_text_is_decided_twice(text: str) -> None:
    stays(text)


def stays(text: str) -> None:
    """Once a beginning is decided, it is decided, and as the whole is."""
    decided: bool | None = None
    for end in range(len(text) + 1):
        if decided is None and not undecided(text[:end]):
            decided = refuses(text[:end])
        if decided is not None:
            assert not undecided(text[:end])
            assert refuses(text[:end]) is decided


def test_an_answer_is_held_for_two_sentences_at_most() -> None:
    assert undecided("The total was 4. It rose by 5 %.")
    assert not undecided("The total was four. It rose by five percent. T")
    assert not undecided("a" * HEAD)
    assert not undecided("The text does not mention it")
    assert undecided("The text does not mention")


def test_time_is_bounded() -> None:
    for unit in ("no " * 5, "does not ", "there is no a, ", " ", "\n", "not very likely ", ". "):
        began = time.perf_counter()
        text = unit * (400_000 // len(unit))
        refuses(text)
        undecided(text)
        assert time.perf_counter() - began < 0.5
