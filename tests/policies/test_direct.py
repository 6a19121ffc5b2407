"""Direct: relays one model, and spills over to its other backends before the first byte."""

from __future__ import annotations

from typing import Any

import pytest

from policies.direct import Direct
from router.faults import Blame
from router.steps import Open, Relay
from tests.fleets import attempt, failed, finished, fleet, request
from tests.playbook import Playbook

EXAMPLES: tuple[dict[str, Any], ...] = ({"model": "small"},)
NONSENSE: tuple[dict[str, Any], ...] = ({}, {"model": 5}, {"model": "small", "retries": 3})

CHAT = request()
FIRST, SECOND, NONE = (
    attempt("small", "a:1"),
    attempt("small", "b:1", 1),
    attempt("small", "", -1),
)


def opened() -> Playbook:
    return Playbook(Direct(model="small"), CHAT, fleet()).asks(Open("small", CHAT)).hears(FIRST)


def test_it_relays_the_answer() -> None:
    opened().asks(Relay(FIRST)).hears(finished(FIRST)).ends(finished(FIRST))


@pytest.mark.parametrize("blame", [Blame.BACKEND, Blame.BUSY])
def test_it_tries_the_other_backend_while_there_is_one_to_spare(blame: Blame) -> None:
    (
        opened()
        .asks(Relay(FIRST))
        .hears(failed(FIRST, blame, spare=True))
        .asks(Open("small", CHAT, avoid=frozenset({"a:1"})))
        .hears(SECOND)
        .asks(Relay(SECOND))
        .hears(finished(SECOND))
        .ends(finished(SECOND))
    )


def test_every_backend_that_was_tried_is_avoided() -> None:
    (
        opened()
        .asks(Relay(FIRST))
        .hears(failed(FIRST, spare=True))
        .asks(Open("small", CHAT, avoid=frozenset({"a:1"})))
        .hears(SECOND)
        .asks(Relay(SECOND))
        .hears(failed(SECOND, spare=True))
        .asks(Open("small", CHAT, avoid=frozenset({"a:1", "b:1"})))
        .hears(NONE)
        .asks(Relay(NONE))
        .hears(failed(NONE))
        .ends(failed(NONE))
    )


@pytest.mark.parametrize(
    "end", [failed(FIRST), failed(FIRST, sent=True), failed(FIRST, Blame.CLIENT)], ids=str
)
def test_it_ends_with_a_failure_that_cannot_be_mended(end: Any) -> None:
    opened().asks(Relay(FIRST)).hears(end).ends(end)
