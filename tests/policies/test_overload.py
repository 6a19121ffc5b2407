"""Overload: the cheaper target answers while the line is too long, and what was shed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from policies.overload import Overload
from router.faults import Blame
from router.fleet import Fleet
from router.steps import Note, Route
from tests.fleets import attempt, failed, finished, fleet, request
from tests.playbook import Playbook

EXAMPLES: tuple[dict[str, Any], ...] = (
    {"target": "large", "cheaper": "small"},
    {"target": "large", "cheaper": "small", "wait": 0.5, "watch": ["large", "small"]},
)
NONSENSE: tuple[dict[str, Any], ...] = (
    {},
    {"target": "large"},
    {"target": "large", "cheaper": "large"},
    {"target": "large", "cheaper": "small", "wait": -1},
    {"target": "large", "cheaper": "small", "watch": "large"},
)

CHAT = request()
LARGE, SMALL = attempt("large", "a:1"), attempt("small", "b:1", 1)
POLICY = Overload("large", "small", wait=2.0)


def waits(queue: Mapping[str, float], low: Mapping[str, float] | None = None) -> Fleet:
    """A fleet in whose lines a request must be expected to wait for so long."""
    views = {
        name: replace(view, queue=queue.get(name, 0.0), queue_low=(low or queue).get(name, 0.0))
        for name, view in fleet().models.items()
    }
    return Fleet(MappingProxyType(views))


@pytest.mark.parametrize("wait", [0.0, 2.0])
def test_the_target_answers_while_the_wait_is_short(wait: float) -> None:
    played = Playbook(POLICY, CHAT, waits({"large": wait}))
    played.asks(Route("large", CHAT)).hears(finished(LARGE)).ends(finished(LARGE))


@pytest.mark.parametrize(("wait", "said"), [(2.04, "would take 2.0 s"), (math.inf, "is full")])
def test_the_cheaper_one_answers_while_it_is_long(wait: float, said: str) -> None:
    played = Playbook(POLICY, CHAT, waits({"large": wait}))
    played.asks(Note("overloaded", f"a place with large {said}"), Route("small", CHAT))
    played.hears(finished(SMALL)).ends(finished(SMALL))


def test_requests_of_low_priority_look_at_their_own_line() -> None:
    lines = waits({"large": 0.0}, low={"large": 9.0})
    low = replace(CHAT, low=True)
    Playbook(POLICY, CHAT, lines).asks(Route("large", CHAT))
    Playbook(POLICY, low, lines).asks(
        Note("overloaded", "a place with large would take 9.0 s"), Route("small", low)
    )


def test_other_models_may_be_watched() -> None:
    policy = Overload("duet", "small", watch=("large",))
    Playbook(policy, CHAT, waits({"small": 9.0})).asks(Route("duet", CHAT))
    Playbook(policy, CHAT, waits({"large": 9.0})).asks(
        Note("overloaded", "a place with large would take 9.0 s"), Route("small", CHAT)
    )


def test_what_was_shed_after_all_is_answered_by_the_cheaper_one() -> None:
    played = Playbook(POLICY, CHAT, fleet()).asks(Route("large", CHAT))
    played.hears(failed(LARGE, Blame.BUSY))
    played.asks(Note("shed", "by large: busy broke it"), Route("small", CHAT))
    played.hears(finished(SMALL)).ends(finished(SMALL))


@pytest.mark.parametrize(
    "end", [failed(LARGE, Blame.BUSY, sent=True), failed(LARGE), failed(LARGE, Blame.CLIENT)]
)
def test_what_has_begun_or_failed_otherwise_ends_it(end: Any) -> None:
    played = Playbook(POLICY, CHAT, fleet()).asks(Route("large", CHAT))
    played.hears(end).ends(end)


def test_a_policy_as_target_needs_models_to_watch() -> None:
    assert Overload("duet", "small").misfit(fleet()) == (
        'watch: name the models whose lines say that "duet" is overloaded'
    )
    assert Overload("duet", "small", watch=("large",)).misfit(fleet()) is None
    assert POLICY.misfit(fleet()) is None
