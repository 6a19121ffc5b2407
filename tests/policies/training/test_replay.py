"""Replay: what policies do with recorded outcomes, and what rows cannot tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from policies.cascade import Cascade
from policies.direct import Direct
from policies.entropy import Entropy
from policies.fallback import Fallback
from policies.hedge import Hedge
from policies.split import Split
from policies.training.outcomes.rows import Rows
from policies.training.replay import Replayed, ReplayError, Stage, fleet_of, replayed
from router.fleet import Fleet, Price
from router.phrases import collect, compute, emit, note, open_attempt, route
from router.steps import Failed, Policy, Request, Steps

MODELS = ("small", "large")
ROWS = Rows(
    prompts=("one", "two", "three four"),
    models=MODELS,
    scores=np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]),
    outputs=(("yes 1", "it is 1"), ("no", "it is 2"), ("yes", "it is 3")),
)
BARE = Rows(ROWS.prompts, MODELS, ROWS.scores)


def stage(**policies: Policy) -> Stage:
    models: Mapping[str, Policy] = {name: Direct(name) for name in MODELS}
    fleet = fleet_of(MODELS, [1.0, 10.0], [Price(), Price(1, 2)])
    return Stage({**models, **policies}, fleet)


def play(policy: Policy, rows: Rows = ROWS, **others: Policy) -> Replayed:
    return replayed("it", rows, stage(it=policy, **others))


@dataclass(frozen=True, slots=True)
class ByLength:
    """Long prompts to the large model, with what is expected of both."""

    reasons: ClassVar[tuple[str, ...]] = ("long", "short")

    def route(self, request: Request, fleet: Fleet) -> Steps:
        words = yield from compute(str.split, request.body["messages"][-1]["content"])
        long = len(words) > 1
        expected = {"large": 0.9, "small": 0.2 if long else 0.8, "another": 1.0}
        yield from note("long" if long else "short", expected=expected)
        return (yield from route("large" if long else "small", request))


def test_a_policy_that_decides_first_needs_no_outputs() -> None:
    found = play(ByLength(), BARE)
    assert found.chances.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert found.asked.tolist() == found.chances.tolist()
    assert found.expected.tolist() == [[0.8, 0.9], [0.8, 0.9], [0.2, 0.9]]
    assert found.reasons == {"short": 2, "long": 1}


def test_chance_counts_by_what_could_have_come() -> None:
    found = play(Split({"small": 3, "large": 1}), BARE)
    assert found.chances.tolist() == [[0.75, 0.25]] * 3
    assert np.isnan(found.expected).all()


def test_a_cascade_pays_for_its_drafts() -> None:
    found = play(Cascade("small", "large", pattern="yes"))
    assert found.chances.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert found.asked.tolist() == [[1, 0], [1, 1], [1, 0]]
    assert found.reasons == {"draft_accepted": 2, "draft_rejected": 1}


def test_a_cascade_behind_a_draw_is_weighed_by_its_chance() -> None:
    found = play(Split({"cheap": 1, "large": 1}), cheap=Cascade("small", "large", pattern="yes"))
    assert found.chances.tolist() == [[0.5, 0.5], [0, 1], [0.5, 0.5]]
    assert found.asked.tolist() == [[0.5, 0.5], [0.5, 1], [0.5, 0.5]]


def test_nothing_fails_and_nothing_is_slow() -> None:
    assert play(Fallback(("small", "large"))).chances.tolist() == [[1, 0]] * 3
    hedged = play(Hedge("small", 1.0, "large"))
    assert hedged.chances.tolist() == hedged.asked.tolist() == [[1, 0]] * 3


@dataclass(frozen=True, slots=True)
class Retells:
    """Hears one model and writes its text, perhaps changed."""

    reasons: ClassVar[tuple[str, ...]] = ()
    more: str = ""

    def route(self, request: Request, fleet: Fleet) -> Steps:
        attempt = yield from open_attempt("large", request)
        heard = yield from collect(attempt)
        assert not isinstance(heard, Failed)
        yield from emit(attempt, heard.text[:2])
        yield from emit(attempt, heard.text[2:] + self.more)
        return heard.finished


def test_who_writes_a_models_answer_gets_its_score() -> None:
    assert play(Retells()).chances.tolist() == [[0, 1]] * 3
    with pytest.raises(ReplayError, match="an answer of its own"):
        play(Retells("!"))


GRADE: Any = {"by": "large"}


@pytest.mark.parametrize(
    ("policy", "rows", "complaint"),
    [
        (Cascade("small", "large", pattern="x"), BARE, "row 1 holds none of small: .*output/small"),
        (Cascade("small", "large", mean_logprob=-0.1), ROWS, "logprobs set"),
        (Entropy("small", "large", 0.5), ROWS, r"rows do not hold \(Render\)"),
        (Direct("third"), ROWS, "asks third.*--as third=COLUMN"),
        (Fallback(("third",)), ROWS, "asks third"),
        (Split({"third": 1}), ROWS, "asks third"),
    ],
)
def test_what_rows_do_not_hold_is_refused(policy: Policy, rows: Rows, complaint: str) -> None:
    with pytest.raises(ReplayError, match=complaint) as raised:
        play(policy, rows)
    assert "\n" not in str(raised.value)


def test_a_question_of_the_policys_own_has_no_answer() -> None:
    from policies.verdicts.grading import Grade

    with pytest.raises(ReplayError, match="a question of its own"):
        play(Cascade("small", "large", grade=Grade("large")))


def test_the_fleet_is_that_of_the_rows() -> None:
    fleet = stage().fleet
    assert fleet.alive("small")
    assert (fleet.models["large"].params_b, fleet.models["large"].price) == (10.0, Price(1, 2))


def test_a_replay_can_be_watched_and_keeps_the_order() -> None:
    seen: list[int] = []

    def watch(found: Any) -> Any:
        for one in found:
            seen.append(1)
            yield one

    many = ROWS.at(np.arange(1_000) % 3)
    found = replayed("it", many, stage(it=Cascade("small", "large", pattern="yes")), watch=watch)
    assert len(seen) == 1_000
    assert found.chances[:, 1].tolist() == [float(number % 3 == 1) for number in range(1_000)]


def test_a_seed_fixes_what_is_drawn() -> None:
    """Not the chances: those are the same for every draw. A policy without `chances` shows it."""

    @dataclass(frozen=True, slots=True)
    class Coin:
        reasons: ClassVar[tuple[str, ...]] = ()

        def route(self, request: Request, fleet: Fleet) -> Steps:
            return (yield from route("large" if request.draw < 0.5 else "small", request))

    many = BARE.at(np.zeros(100, dtype=np.intp))
    one, same, other = (
        replayed("it", many, stage(it=Coin()), seed).chances[:, 1].tolist() for seed in (1, 1, 2)
    )
    assert one == same != other
    assert 30 < sum(one) < 70
