"""Feedback as it may come: what is read, and the one line that says what is wrong."""

from __future__ import annotations

import pytest

from app.feedback import FeedbackError, read_feedback

ID = "req-0123456789abcdef01234567"


def test_one_and_several_are_read() -> None:
    (one,) = read_feedback(f'{{"id": "{ID}", "score": 0.8}}')
    assert (one.id, one.score) == (ID, 0.8)
    both = read_feedback(f'[{{"id": "{ID}", "score": 1}}, {{"id": "{ID}", "score": 0}}]')
    assert [each.score for each in both] == [1, 0]
    assert read_feedback("[]") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("3", "valid dictionary"),
        ('{"score": 1}', "^id: Field required"),
        (f'{{"id": "{ID}"}}', "^score: Field required"),
        (f'{{"id": "{ID}", "score": 1.5}}', "^score: .*less than or equal to 1"),
        (f'{{"id": "{ID}", "score": -1}}', "^score: .*greater than or equal to 0"),
        (f'{{"id": "{ID}", "score": "1"}}', "^score: .*valid number"),
        (f'{{"id": "{ID}", "score": true}}', "^score: .*valid number"),
        (f'{{"id": "{ID}", "score": NaN}}', "not valid JSON"),
        ('{"id": "chatcmpl-canary", "score": 1}', "^id: .*pattern"),
        (f'{{"id": "{ID}", "score": 1, "comment": "canary"}}', "^comment: Extra inputs"),
        (f'[{{"id": "{ID}", "score": 1}}, {{"id": "{ID}", "score": 2}}]', "^1.score: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, says: str) -> None:
    with pytest.raises(FeedbackError, match=says) as refused:
        read_feedback(text)
    assert "\n" not in str(refused.value)
    assert "canary" not in str(refused.value)
