"""Votes: which answers are one, and what a draft says that its answer is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.verdicts.votes import MOST_DIGITS, Majority, answer_of, votes
from router.steps import Draft, Finished
from tests.fleets import attempt

ONE = attempt("small", "a:1")


def drafts(*texts: str, reason: str = "stop") -> list[Draft]:
    return [Draft(ONE, text, (), Finished(ONE, reason)) for text in texts]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is 7", "7"),
        ("1 + 2 = 3. So 3.0!", "3"),
        ("1,200 people", answer_of("1200")),
        ("about .5 of them", answer_of("0.50")),
        ("minus: -4", "-4"),
        ("12-8=4, that is 12-8", "8"),
        ("(3)-2", "2"),
        ("-0", "0"),
        ("$474.", "474"),
        ("none", None),
        ("", None),
        ("9" * (MOST_DIGITS + 1), "9" * (MOST_DIGITS + 1)),
    ],
)
def test_the_last_number_is_the_answer(text: str, answer: str | None) -> None:
    assert answer_of(text) == answer


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        ("Answer: (.*)", "Answer: 3\nNo.\nAnswer:  Paris ", "paris"),
        ("Answer: .*", "Answer: PARIS", "answer: paris"),
        ("Answer: (.*)", "Answer: 7.0", "7"),
        ("Answer: (.*)", "7", None),
        ("a(b)?", "a", None),
        ("(?s).*", "Infinity", "infinity"),
        (".*", "Paris\n", "paris"),
        ("Answer: (.*)", "Answer: \n", None),
    ],
)
def test_a_pattern_finds_it(pattern: str, text: str, answer: str | None) -> None:
    assert answer_of(text, pattern) == answer


@pytest.mark.parametrize(
    ("field", "text", "answer"),
    [
        ("a", '{"a": 7}', "7"),
        ("a", '{"a": "7.0"}', "7"),
        ("a.b", '{"a": {"b": " Yes"}}', "yes"),
        ("a", '{"a": {"c": 1, "b": 2}}', '{"b": 2, "c": 1}'),
        ("a", '{"a": true}', "true"),
        ("a", '{"a": null}', "null"),
        ("a.b", '{"a": 7}', None),
        ("a", "[7]", None),
        ("a", "seven", None),
        ("a", "[" * 100_000, None),
    ],
)
def test_a_field_holds_it(field: str, text: str, answer: str | None) -> None:
    assert answer_of(text, field=field) == answer


def test_every_draft_is_told_how_many_agree_with_it() -> None:
    assert votes(drafts("7", "8", "It is 7", "none"), Majority()) == [2, 1, 2, 0]


def test_what_was_cut_off_has_no_vote() -> None:
    assert votes(drafts("7", "7", reason="length") + drafts("7"), Majority()) == [0, 0, 1]


@given(st.text())
def test_any_text_has_an_answer_or_none(text: str) -> None:
    answer_of(text)
    answer_of(text, "(.*)")
    answer_of(text, field="a")


@given(st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_a_number_is_itself_however_it_is_written(number: object) -> None:
    assert answer_of(f"So it is {number:,f}.") == answer_of(f"{number:f}")
