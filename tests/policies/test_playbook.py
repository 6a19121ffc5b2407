"""The playbook itself: it must fail where a conversation goes wrong, and say where."""

from __future__ import annotations

import pytest

from policies.direct import Direct
from router.steps import Open, Relay
from tests.fleets import attempt, failed, finished, fleet, request
from tests.playbook import Playbook

CHAT = request()
SMALL = attempt("small", "a:1")


def opened() -> Playbook:
    return Playbook(Direct(model="small"), CHAT, fleet()).asks(Open("small", CHAT)).hears(SMALL)


def test_a_conversation_that_goes_as_written_passes() -> None:
    opened().asks(Relay(SMALL)).hears(finished(SMALL)).ends(finished(SMALL))


def test_another_step_than_expected_shows_the_conversation_so_far() -> None:
    with pytest.raises(AssertionError) as caught:
        opened().asks(Open("large", CHAT))
    said = str(caught.value)
    assert f"asks  {Open('small', CHAT)}\n    hears {SMALL}" in said
    assert f"expected it to ask {Open('large', CHAT)}\nbut it asked {Relay(SMALL)}" in said


def test_another_end_than_expected_fails() -> None:
    with pytest.raises(AssertionError, match="but it ended with Failed"):
        opened().asks(Relay(SMALL)).hears(failed(SMALL)).ends(finished(SMALL))


def test_an_end_where_a_step_was_expected_fails() -> None:
    with pytest.raises(AssertionError, match=r"expected it to ask Relay.*\nbut it ended"):
        opened().asks(Relay(SMALL)).hears(finished(SMALL)).asks(Relay(SMALL))


def test_a_question_without_an_answer_fails() -> None:
    with pytest.raises(AssertionError, match="it waits for an answer"):
        opened().asks(Relay(SMALL)).ends(finished(SMALL))


def test_an_answer_without_a_question_fails() -> None:
    with pytest.raises(AssertionError, match="to be asked before it is told"):
        opened().hears(finished(SMALL))


def test_only_work_can_be_computed() -> None:
    with pytest.raises(AssertionError, match="expected it to compute"):
        opened().computes()
