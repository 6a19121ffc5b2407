"""One choice of several: it alone is left, as it came, and the usage of all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.choices import Only
from router.steps import Usage
from tests.scripted import DONE, event

USED = Usage(10, 30, 4)
ONE = Only(1, USED)


def left(of: dict[str, Any], only: Only = ONE) -> Any:
    kept = only.event(event(of))
    return json.loads(kept.removeprefix(b"data: ")) if kept else None


def test_the_chosen_one_is_told_as_the_first() -> None:
    said = {"id": "x", "choices": [{"index": 1, "delta": {"content": "7", "odd": [1]}, "more": 2}]}
    expected = {"index": 0, "delta": {"content": "7", "odd": [1]}, "more": 2}
    assert left(said) == {"id": "x", "choices": [expected]}


def test_the_others_are_not_told() -> None:
    assert left({"choices": [{"index": 0, "delta": {"content": "8"}}]}) is None
    both = {"choices": [{"index": 0, "text": "8"}, 5, {"index": 1, "text": "7"}]}
    assert left(both) == {"choices": [{"index": 0, "text": "7"}]}


def test_a_choice_without_a_number_is_the_first() -> None:
    assert left({"choices": [{"text": "8"}]}, Only(0, None)) == {
        "choices": [{"text": "8", "index": 0}]
    }


def test_usage_counts_all_and_keeps_what_else_it_says() -> None:
    stated = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30, "details": {"a": 1}}
    told = {"prompt_tokens": 10, "completion_tokens": 30, "total_tokens": 40, "details": {"a": 1}}
    assert left({"choices": [], "usage": stated}) == {"choices": [], "usage": told}
    assert left({"choices": [], "usage": stated}, Only(1, None))["usage"] == stated
    assert left({"choices": [], "usage": None})["usage"] is None


@pytest.mark.parametrize(
    "block", [DONE, b": comment\n\n", b"data: 7\n\n", b"data: {broken\n\n", b""]
)
def test_what_is_about_no_choice_stays(block: bytes) -> None:
    assert ONE.event(block) == block
