"""Deciding: policies are asked what they would do, and no backend hears of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest

from policies.cascade import Cascade
from policies.direct import Direct
from policies.fallback import Fallback
from policies.split import Split
from router.decide import decided
from router.fleet import Fleet
from router.phrases import compute, note, route
from router.steps import Policy, Request, Steps
from tests.fleets import fleet, request

MODELS: Mapping[str, Policy] = {"small": Direct(model="small"), "large": Direct(model="large")}


@dataclass(frozen=True)
class Judge:
    """Hands on to the target of which it expects most."""

    reasons: ClassVar[tuple[str, ...]] = ("judged",)

    expects: Mapping[str, float]

    def route(self, request: Request, fleet: Fleet) -> Steps:
        best = yield from compute(_best, self.expects)
        yield from note("judged", "by eye", self.expects)
        return (yield from route(best, request))


def _best(expects: Mapping[str, float]) -> str:
    return max(expects, key=lambda name: expects[name])


def test_a_model_is_its_own_arm() -> None:
    found = decided("small", request(), MODELS, fleet())
    assert (found.arm, found.chances) == ("small", {"small": 1.0})


def test_a_second_name_for_a_model_leads_to_the_model() -> None:
    found = decided("chat", request(), {**MODELS, "chat": Direct(model="large")}, fleet())
    assert found.arm == "large"


def test_a_policy_that_asks_models_itself_is_an_arm() -> None:
    cascade = Cascade(small="small", large="large", pattern="x")
    found = decided("auto", request(), {**MODELS, "auto": cascade}, fleet())
    assert (found.arm, found.chances) == ("auto", {"auto": 1.0})


def test_what_is_expected_comes_through_nested_policies() -> None:
    targets: Mapping[str, Policy] = {
        **MODELS,
        "judge": Judge({"small": 0.25, "large": 0.75}),
        "auto": Fallback(targets=("judge", "small")),
    }
    found = decided("auto", request(), targets, fleet())
    assert found.arm == "large"
    assert found.expected == {"small": 0.25, "large": 0.75}
    assert (found.reason, found.detail) == ("judged", "by eye")


def test_chances_are_those_of_all_that_could_have_come() -> None:
    targets: Mapping[str, Policy] = {
        **MODELS,
        "judge": Judge({"small": 0.25, "large": 0.75}),
        "auto": Split(weights={"judge": 90, "small": 5, "large": 5}),
    }
    for draw, arm in ((0.0, "large"), (0.92, "small"), (0.97, "large")):
        found = decided("auto", request(draw=draw), targets, fleet())
        assert found.arm == arm
        assert found.chances == pytest.approx({"large": 0.95, "small": 0.05})


def test_draws_within_draws_multiply() -> None:
    targets: Mapping[str, Policy] = {
        **MODELS,
        "even": Split(weights={"small": 1, "large": 1}),
        "auto": Split(weights={"even": 1, "large": 1}),
    }
    found = decided("auto", request(draw=0.3), targets, fleet())
    assert found.chances == pytest.approx({"small": 0.25, "large": 0.75})


def test_a_target_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        decided("auto", request(), {"auto": Fallback(targets=("nowhere",))}, fleet())
