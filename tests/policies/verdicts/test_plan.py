"""Plans: the laws of backward induction, for any calibration, and one worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.verdicts.calibrated import Calibrated, Cell, Judging, Stage
from policies.verdicts.plan import Action, Costs, Plan, Prices, planned, prices_of
from router.fleet import Fleet, Price
from tests.fleets import fleet
from tests.policies.verdicts.made_calibration import MADE

EQUAL = Prices(Price(1.0, 2.0), Price(1.0, 2.0))
Rule = Callable[[int, int, int], Action]
"""What to do after a stage, by the bin before and the bin now."""


def test_the_one_made_by_hand_does_what_it_says() -> None:
    plan = planned(MADE, EQUAL, 20.0)
    unsure, sure, nothing = 0, 1, 2
    assert [plan.at((one,))[0] for one in (unsure, sure, nothing)] == [
        Action.MORE,
        Action.STOP,
        Action.LARGE,
    ]
    assert plan.at((unsure, sure)) == (Action.STOP, MADE.stages[1].cells[0][1])
    assert plan.at((unsure, unsure))[0] is Action.LARGE
    assert plan.at((nothing, sure))[0] is Action.LARGE  # four agree, after none was found


def test_the_costs_are_those_of_the_calls() -> None:
    costs = Costs(MADE, EQUAL)
    first = MADE.stages[0].cells[0][0]
    assert costs.unit == 10 + 2 * 100
    assert costs.large(first) == 1.0
    assert costs.more(first, 3) == (10 + 2 * 20) / 210
    judged = replace(MADE, judging=Judging(40.0, 1.0))
    asked = Costs(judged, replace(EQUAL, judge=Price(0.5, 3.0)))
    assert asked.more(first, 3) == pytest.approx((10 + 2 * 20 + 3 * (20 + 3)) / 210)


def test_without_prices_parameters_stand_in() -> None:
    free = {name: replace(view, price=Price()) for name, view in fleet().models.items()}
    free["large"] = replace(free["large"], params_b=8.0)
    assert prices_of(Fleet(MappingProxyType(free)), "small", "large", "large") == Prices(
        Price(0.0, 1.0), Price(0.0, 8.0), Price(0.0, 8.0)
    )
    assert prices_of(fleet(), "small", "large", None) == EQUAL


def test_a_dearer_large_model_is_asked_less() -> None:
    dear = replace(EQUAL, large=Price(10.0, 20.0))
    plan = planned(MADE, dear, 0.2)  # in units of its own, a right answer is now worth little
    actions = {step.action for stage in plan.steps for row in stage for step in row}
    assert Action.LARGE not in actions


# ------------------------------------------------------------------------------------- the laws

few = settings(max_examples=40)


@st.composite
def calibrations(draw: st.DrawFn) -> Calibrated:
    """Any of one to three stages with few bins."""
    totals = draw(st.sampled_from([(1,), (4,), (1, 3), (2, 4, 8)]))
    cuts = [draw(st.sampled_from([(), (0.5,), (0.3, 0.6)])) for _ in totals]
    chance = st.floats(0, 1)
    stages = []
    for at, total in enumerate(totals):
        bins = len(cuts[at]) + 2
        following = len(cuts[at + 1]) + 2 if at + 1 < len(totals) else 0
        cells = tuple(
            tuple(
                Cell(
                    draw(st.floats(0.1, 9)),
                    draw(chance),
                    draw(chance),
                    draw(st.floats(1, 400)),
                    _shares([draw(st.floats(0.01, 1)) for _ in range(following)]),
                    draw(st.floats(1, 300)) if following else 0.0,
                )
                for _ in range(bins)
            )
            for _ in range(len(cuts[at - 1]) + 2 if at else 1)
        )
        stages.append(Stage(total, cuts[at], cells))
    return replace(MADE, stages=tuple(stages))


def _shares(weights: list[float]) -> tuple[float, ...]:
    return tuple(weight / sum(weights) for weight in weights)


def expected(calibrated: Calibrated, rule: Rule) -> tuple[float, float]:
    """The accuracy and the cost, in large answers, of following a rule, by the table itself."""
    costs = Costs(calibrated, EQUAL)
    totals = (*calibrated.totals, calibrated.totals[-1])

    def follow(stage: int, before: int, now: int) -> tuple[float, float]:
        cell = calibrated.stages[stage].cells[before][now]
        match rule(stage, before, now):
            case Action.STOP:
                return cell.right, 0.0
            case Action.LARGE:
                return cell.large, costs.large(cell)
            case Action.MORE:
                right, cost = 0.0, costs.more(cell, totals[stage + 1] - totals[stage])
                for following, chance in enumerate(cell.next):
                    told = follow(stage + 1, now, following)
                    right, cost = right + chance * told[0], cost + chance * told[1]
                return right, cost

    row = calibrated.stages[0].cells[0]
    whole = sum(cell.count for cell in row)
    found = [(cell.count / whole, follow(0, 0, now)) for now, cell in enumerate(row)]
    return sum(p * told[0] for p, told in found), sum(p * told[1] for p, told in found)


def by_plan(plan: Plan) -> Rule:
    return lambda stage, before, now: plan.steps[stage][before][now].action


def fixed(last: Action, after: int) -> Rule:
    return lambda stage, before, now: last if stage == after else Action.MORE


@few
@given(calibrations(), st.floats(0.1, 500))
def test_no_fixed_way_is_worth_more_than_the_plan(calibrated: Calibrated, worth: float) -> None:
    plan = planned(calibrated, EQUAL, worth)
    right, cost = expected(calibrated, by_plan(plan))
    for after in range(len(calibrated.stages)):
        for last in (Action.STOP, Action.LARGE):
            other = expected(calibrated, fixed(last, after))
            assert worth * right - cost >= worth * other[0] - other[1] - 1e-9 * worth


@few
@given(calibrations(), st.floats(0.1, 500))
def test_what_a_cell_is_worth_is_what_the_plan_comes_to(
    calibrated: Calibrated, worth: float
) -> None:
    plan = planned(calibrated, EQUAL, worth)
    right, cost = expected(calibrated, by_plan(plan))
    row = calibrated.stages[0].cells[0]
    whole = sum(cell.count for cell in row)
    told = sum(
        cell.count / whole * step.value for cell, step in zip(row, plan.steps[0][0], strict=True)
    )
    assert told == pytest.approx(worth * right - cost)


@few
@given(calibrations(), st.floats(0.1, 500), st.floats(1, 5))
def test_who_values_right_answers_more_gets_no_fewer_and_pays_no_less(
    calibrated: Calibrated, worth: float, times: float
) -> None:
    less = expected(calibrated, by_plan(planned(calibrated, EQUAL, worth)))
    more = expected(calibrated, by_plan(planned(calibrated, EQUAL, worth * times)))
    assert more[0] >= less[0] - 1e-9
    assert more[1] >= less[1] - 1e-9


@few
@given(calibrations())
def test_the_last_stage_draws_no_more(calibrated: Calibrated) -> None:
    steps = planned(calibrated, EQUAL, 20.0).steps[-1]
    assert all(step.action is not Action.MORE for row in steps for step in row)
