"""The first pass: what is heard of it before it may be relayed, and where it goes if it fails."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from policies.reading.first_pass import Heard, first_pass, may_refuse
from router.phrases import DRAFT_SHARE
from router.steps import UNCHANGED, Event, Failed, Next, Open
from tests.fleets import attempt, delta, failed, finished, request

ASKED = request()
ONE, OTHER = attempt("small", "a:1"), attempt("small", "b:1", 1)
REFUSED = "The text does not mention the name of the horse. It only says that it was brown."
LONG = "He rode a brown horse that belonged to his uncle. It was eleven years old then."


def heard(*events: Event) -> tuple[Heard | Failed, int]:
    """What comes of these events, and how many of them were waited for."""
    steps = first_pass("small", ASKED)
    assert next(steps) == Open("small", ASKED, UNCHANGED, frozenset(), DRAFT_SHARE)
    assert steps.send(ONE) == Next((ONE,), None)
    for count, event in enumerate(events, 1):
        try:
            assert steps.send(event) == Next((ONE,), None)
        except StopIteration as stop:
            found: Heard | Failed = stop.value
            return found, count
    raise AssertionError("it waits for more")


def pieces(text: str, size: int = 6) -> Sequence[Event]:
    """The text as a stream brings it."""
    return [delta(ONE, text[at : at + size]) for at in range(0, len(text), size)]


@pytest.mark.parametrize("text", ["Unanswerable.", "unanswerable", REFUSED])
def test_a_refusal_is_heard_as_one(text: str) -> None:
    assert heard(*pieces(text), finished(ONE))[0] == Heard(ONE, refused=True)


@pytest.mark.parametrize("text", ["12 red pens", LONG, ""])
def test_an_answer_is_none(text: str) -> None:
    assert heard(*pieces(text), finished(ONE))[0] == Heard(ONE, refused=False)


@pytest.mark.parametrize("text", [LONG, REFUSED])
def test_no_more_is_held_back_than_tells_them_apart(text: str) -> None:
    more = pieces(text + " And so on, as he told his friends for many years." * 20)
    _, count = heard(*more)
    assert count < len(more) / 4


def test_only_the_first_choice_is_listened_to() -> None:
    other = [delta(ONE, "Unanswerable.", choice=1), *pieces(LONG), finished(ONE)]
    assert heard(*other)[0] == Heard(ONE, refused=False)


def test_another_backend_is_tried_where_there_is_one() -> None:
    steps = first_pass("small", ASKED)
    next(steps)
    steps.send(ONE)
    again = steps.send(failed(ONE, spare=True))
    assert again == Open("small", ASKED, UNCHANGED, frozenset({"a:1"}), DRAFT_SHARE)
    steps.send(OTHER)
    with pytest.raises(StopIteration) as stop:
        steps.send(failed(OTHER))
    assert stop.value.value == failed(OTHER)


@pytest.mark.parametrize(
    ("body", "free"),
    [
        ({}, True),
        ({"response_format": {"type": "text"}, "tool_choice": "auto", "guided_json": None}, True),
        ({"tool_choice": {"type": "auto"}}, True),
        ({"response_format": {"type": "json_object"}}, False),
        ({"text": {"format": {"type": "json_schema"}}}, False),
        ({"tool_choice": {"type": "any"}}, False),
        ({"tool_choice": "required"}, False),
        ({"structured_outputs": {"choice": ["a", "b"]}}, False),
    ],
)
def test_an_answer_of_a_set_form_cannot_refuse(body: dict[str, object], free: bool) -> None:
    assert may_refuse(body) is free
