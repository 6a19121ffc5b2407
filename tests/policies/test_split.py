"""Split: shares by weight; a session stays where it is, and moves only if it must."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.split import Split
from router.steps import Note, Request, Route
from tests.fleets import attempt, failed, finished, fleet, request
from tests.playbook import Playbook

EXAMPLES: tuple[dict[str, Any], ...] = (
    {"weights": {"small": 1}},
    {"weights": {"small": 90, "large": 10, "other": 0}, "salt": "autumn"},
    {"weights": {"small": 0.5, "large": 0.5}, "sticky": False},
)
NONSENSE: tuple[dict[str, Any], ...] = (
    {},
    {"weights": {}},
    {"weights": {"small": 0}},
    {"weights": {"small": 2, "large": -1}},
    {"weights": {"small": "1"}},
    {"weights": {"small": 1}, "sticky": "yes"},
)
SESSIONS = [f"session-{number}" for number in range(2000)]


def target_of(policy: Split, asked: Request) -> tuple[str, str]:
    """The reason and the target of its only decision."""
    steps = policy.route(asked, fleet())
    noted = next(steps)
    assert isinstance(noted, Note)
    routed = steps.send(None)
    assert isinstance(routed, Route)
    return noted.reason, routed.target


@pytest.mark.parametrize(("draw", "target"), [(0.0, "small"), (0.74, "small"), (0.76, "large")])
def test_a_request_without_a_session_is_drawn(draw: float, target: str) -> None:
    chat, policy = request(draw=draw), Split(weights={"small": 3, "large": 1})
    end = finished(attempt(target, "a:1"))
    played = Playbook(policy, chat, fleet()).asks(Note("drawn", target), Route(target, chat))
    played.hears(end).ends(end)


def test_a_failure_of_the_target_is_the_answer() -> None:
    chat, end = request(), failed(attempt("small", "a:1"))
    played = Playbook(Split(weights={"small": 1}), chat, fleet())
    played.asks(Note("drawn", "small"), Route("small", chat)).hears(end).ends(end)


def test_a_session_goes_where_it_went_whatever_is_drawn() -> None:
    policy = Split(weights={"small": 1, "large": 1})
    draws = (0.0, 0.4, 0.999)
    for session in SESSIONS[:50]:
        found = {target_of(policy, request(session=session, draw=draw)) for draw in draws}
        assert len(found) == 1
        assert found.pop()[0] == "sticky"


def test_the_hash_is_the_same_on_every_machine_and_in_every_version() -> None:
    """Another hash would move every user at the next upgrade."""
    policy = Split(weights={"small": 1, "large": 1})
    homes = [target_of(policy, request(session=session))[1] for session in ("ann", "bob", "cy")]
    assert homes == ["small", "large", "large"]


def test_sessions_are_shared_out_by_weight() -> None:
    policy = Split(weights={"small": 90, "large": 10})
    counted = Counter(target_of(policy, request(session=s))[1] for s in SESSIONS)
    assert counted["large"] == pytest.approx(200, abs=4 * 13.4)  # 4 standard deviations


def test_raising_a_weight_moves_only_the_sessions_that_the_new_share_needs() -> None:
    before, after = Split(weights={"small": 9, "large": 1}), Split(weights={"small": 8, "large": 2})
    moved = Counter(
        (target_of(before, request(session=s))[1], target_of(after, request(session=s))[1])
        for s in SESSIONS
    )
    assert moved["large", "small"] == 0
    assert moved["small", "large"] == pytest.approx(200, abs=4 * 13.4)


def test_another_salt_picks_other_sessions() -> None:
    weights = {"small": 1.0, "large": 1.0}
    plain, salted = Split(weights=weights), Split(weights=weights, salt="another")
    same = sum(
        target_of(plain, request(session=s)) == target_of(salted, request(session=s))
        for s in SESSIONS
    )
    assert same == pytest.approx(1000, abs=4 * 22.4)


def test_without_stickiness_a_session_is_drawn_too() -> None:
    policy = Split(weights={"small": 1, "large": 1}, sticky=False)
    assert target_of(policy, request(session="ann", draw=0.9)) == ("drawn", "large")


@given(
    weights=st.dictionaries(
        st.sampled_from(["a", "b", "c", "d"]), st.floats(0, 1e6), min_size=1
    ).filter(lambda weights: sum(weights.values()) > 0),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_target_of_weight_0_is_never_chosen(weights: dict[str, float], draw: float) -> None:
    _, target = target_of(Split(weights=weights), request(draw=draw))
    assert weights[target] > 0
