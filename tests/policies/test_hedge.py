"""Hedge: a second backend is asked if the first is slow or fails; who speaks first answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.hedge import Hedge
from router.faults import Blame
from router.steps import Close, Next, Note, Open, Relay, TimedOut
from tests.fleets import attempt, delta, failed, finished, fleet, request
from tests.playbook import Playbook

EXAMPLES: tuple[dict[str, Any], ...] = (
    {"model": "small", "delay": 0.2},
    {"model": "small", "delay": 1, "backup": "large"},
)
NONSENSE: tuple[dict[str, Any], ...] = (
    {"model": "small"},
    {"model": "small", "delay": 0},
    {"model": "small", "delay": -1.0},
    {"model": "small", "delay": "fast"},
    {"delay": 1.0},
)

CHAT = request()
FIRST, SECOND, NONE = (
    attempt("small", "a:1"),
    attempt("small", "b:1", 1),
    attempt("small", "", -1),
)
ANOTHER = Open("small", CHAT, avoid=frozenset({"a:1"}))
BESIDE = replace(ANOTHER, waits=False)
"""Beside one that is under way: whoever waits in line is no quicker."""


def opened(policy: Hedge | None = None) -> Playbook:
    played = Playbook(policy or Hedge(model="small", delay=0.2), CHAT, fleet())
    return played.asks(Open("small", CHAT)).hears(FIRST).asks(Next((FIRST,), 0.2))


def raced() -> Playbook:
    return opened().hears(TimedOut()).asks(BESIDE).hears(SECOND).asks(Next((FIRST, SECOND)))


def test_a_quick_first_backend_is_not_hedged() -> None:
    played = opened().hears(delta(FIRST, "7")).asks(Note("first"), Relay(FIRST))
    played.hears(finished(FIRST)).ends(finished(FIRST))


def test_an_answer_without_text_counts_as_speaking() -> None:
    played = opened().hears(finished(FIRST)).asks(Note("first"), Relay(FIRST))
    played.hears(finished(FIRST)).ends(finished(FIRST))


@pytest.mark.parametrize(
    ("winner", "loser", "why"), [(FIRST, SECOND, "first"), (SECOND, FIRST, "hedged")], ids=str
)
def test_the_loser_is_closed_before_the_winner_is_relayed(
    winner: Any, loser: Any, why: str
) -> None:
    played = raced().hears(delta(winner, "7")).asks(Close(loser), Note(why, winner.backend))
    played.asks(Relay(winner)).hears(finished(winner)).ends(finished(winner))


@pytest.mark.parametrize(("broken", "other"), [(FIRST, SECOND), (SECOND, FIRST)], ids=str)
def test_one_that_fails_leaves_the_field_to_the_other(broken: Any, other: Any) -> None:
    played = raced().hears(failed(broken)).asks(Next((other,))).hears(delta(other, "7"))
    played.asks(Note("first" if other is FIRST else "hedged", other.backend), Relay(other))
    played.hears(finished(other)).ends(finished(other))


def test_if_both_fail_the_first_failure_is_the_answer() -> None:
    played = raced().hears(failed(SECOND, Blame.BUSY)).asks(Next((FIRST,))).hears(failed(FIRST))
    played.ends(failed(SECOND, Blame.BUSY))


def test_with_nobody_else_to_ask_it_waits_on() -> None:
    played = opened().hears(TimedOut()).asks(BESIDE).hears(NONE).asks(Next((FIRST,)))
    played.hears(delta(FIRST, "7")).asks(Note("first", "a:1"), Relay(FIRST))
    played.hears(finished(FIRST)).ends(finished(FIRST))


def test_a_first_backend_that_fails_is_replaced_at_once() -> None:
    played = opened().hears(failed(FIRST)).asks(Note("first_failed", "backend broke it"), ANOTHER)
    played.hears(SECOND).asks(Relay(SECOND)).hears(finished(SECOND)).ends(finished(SECOND))


def test_with_nobody_to_replace_it_its_own_failure_is_the_answer() -> None:
    played = opened().hears(failed(FIRST)).asks(Note("first_failed", "backend broke it"), ANOTHER)
    played.hears(NONE).asks(Relay(NONE)).hears(failed(NONE)).ends(failed(FIRST))


def test_a_clients_mistake_is_not_hedged() -> None:
    opened().hears(failed(FIRST, Blame.CLIENT)).ends(failed(FIRST, Blame.CLIENT))


def test_another_model_may_be_the_backup() -> None:
    large = attempt("large", "c:1", 1)
    played = opened(Hedge(model="small", delay=0.2, backup="large")).hears(TimedOut())
    played.asks(replace(BESIDE, model="large")).hears(large)
    played.asks(Next((FIRST, large))).hears(delta(large, "7"))
    played.asks(Close(FIRST), Note("hedged", "c:1"), Relay(large))
    played.hears(finished(large)).ends(finished(large))
