"""Fallback: the next target answers, as long as nothing was sent and another could do better."""

from __future__ import annotations

from typing import Any

import pytest

from policies.fallback import Fallback
from router.faults import Blame
from router.steps import Note, Route
from tests.fleets import attempt, failed, finished, fleet, request
from tests.playbook import Playbook

EXAMPLES: tuple[dict[str, Any], ...] = (
    {"targets": ["small"]},
    {"targets": ["large", "small", "other"]},
)
NONSENSE: tuple[dict[str, Any], ...] = ({}, {"targets": []}, {"targets": "small"}, {"targets": [1]})

CHAT = request()
LARGE, SMALL = attempt("large", "a:1"), attempt("small", "b:1", 1)


def opened() -> Playbook:
    policy = Fallback(targets=("large", "small"))
    return Playbook(policy, CHAT, fleet()).asks(Route("large", CHAT, share=1 / 2))


def test_the_first_target_answers() -> None:
    opened().hears(finished(LARGE)).ends(finished(LARGE))


@pytest.mark.parametrize("blame", [Blame.BACKEND, Blame.BUSY])
def test_the_second_answers_if_the_first_fails_before_a_byte(blame: Blame) -> None:
    (
        opened()
        .hears(failed(LARGE, blame))
        .asks(Note("fell_back", f"from large: {blame} broke it"))
        .asks(Route("small", CHAT, share=1.0))
        .hears(finished(SMALL))
        .ends(finished(SMALL))
    )


@pytest.mark.parametrize(
    "end",
    [failed(LARGE, sent=True), failed(LARGE, Blame.CLIENT), failed(LARGE, Blame.GATEWAY)],
    ids=["sent", "client", "gateway"],
)
def test_what_no_other_target_could_mend_ends_it(end: Any) -> None:
    opened().hears(end).ends(end)


def test_the_last_failure_is_the_answer() -> None:
    (
        opened()
        .hears(failed(LARGE))
        .asks(Note("fell_back", "from large: backend broke it"), Route("small", CHAT))
        .hears(failed(SMALL, Blame.BUSY))
        .ends(failed(SMALL, Blame.BUSY))
    )


def test_each_target_may_use_its_part_of_the_time_that_is_left() -> None:
    played = Playbook(Fallback(targets=("a", "b", "c")), CHAT, fleet("a", "b", "c"))
    for name, share in (("a", 1 / 3), ("b", 1 / 2), ("c", 1.0)):
        broken = failed(attempt(name, f"{name}:1"))
        played.asks(Route(name, CHAT, share)).hears(broken)
        if name != "c":
            played.asks(Note("fell_back", f"from {name}: backend broke it"))
    played.ends(broken)
