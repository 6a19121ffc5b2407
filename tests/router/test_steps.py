"""The vocabulary: closed, immutable, and without behaviour."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import steps
from router.steps import Event, Step, Surface, Usage
from tests.fleets import request

VALUES = [
    getattr(steps, name) for name in steps.__all__ if dataclasses.is_dataclass(getattr(steps, name))
]
COUNTS = st.builds(Usage, st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_every_word_is_a_frozen_value(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(kind)
    assert kind.__doc__


def test_steps_and_events_are_closed_unions_of_words() -> None:
    assert {kind.__name__ for kind in (*get_args(Step), *get_args(Event))} <= set(steps.__all__)


@given(COUNTS, COUNTS, COUNTS)
def test_usage_adds_up(one: Usage, two: Usage, three: Usage) -> None:
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert one + Usage() == one


def test_a_request_of_a_policys_own_making_keeps_the_id_and_takes_nothing_else_along() -> None:
    asked = request(Surface.COMPLETIONS, body={"prompt": "?", "stream": True}, session="ann")
    own = asked.asking({"messages": []})
    assert (own.id, own.session) == (asked.id, "ann")
    assert (own.surface, own.raw, own.stream) == (Surface.CHAT, b"", False)
