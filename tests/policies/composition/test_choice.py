"""The choice: a rule for each wish, and none where nobody may be asked."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.composition.artifact import Artifact, Expert, read_artifact
from policies.composition.budget import Reference, chosen
from policies.composition.choice import Rule, Wish, costs_in, map_for, order_of, rule_for
from policies.composition.judge import Judgement
from tests.policies.composition.make_artifacts import LEXICAL

ARTIFACT = read_artifact(LEXICAL)
COSTS = np.array([1.0, 8.0, 3.0])
EVERYBODY = frozenset({0, 1, 2})
FREE = (0.0, 0.0, 0.0)
NEVER = math.inf


def judgement(*quality: float, category: int = 0, confidence: float = 1.0) -> Judgement:
    return Judgement(category, confidence, 1.0, quality)


def known(experts: tuple[Expert, ...], resident: tuple[int, ...] = (0, 1, 2)) -> Artifact:
    return replace(ARTIFACT, card=replace(ARTIFACT.card, experts=experts, resident=resident))


def test_the_expert_that_is_worth_most_at_the_rate() -> None:
    said = judgement(0.5, 0.9, 0.7)
    assert Rule(COSTS, 1, EVERYBODY).choose(said, FREE) == 1
    assert Rule(COSTS, 1, EVERYBODY, rate=0.06).choose(said, FREE) == 2
    assert Rule(COSTS, 1, EVERYBODY, rate=0.9).choose(said, FREE) == 0


@given(
    quality=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    rate=st.floats(0, 1),
)
def test_it_is_the_choice_that_the_budget_was_tried_with(quality: list[float], rate: float) -> None:
    expected = chosen(np.array([quality]), COSTS, rate)[0]
    assert Rule(COSTS, 1, EVERYBODY, rate=rate).choose(judgement(*quality), FREE) == expected


def test_who_cannot_be_asked_or_is_not_resident_is_passed_over() -> None:
    said = judgement(0.5, 0.9, 0.7)
    assert Rule(COSTS, 1, EVERYBODY).choose(said, (0.0, NEVER, 0.0)) == 2
    assert Rule(COSTS, 1, EVERYBODY).choose(said, (0.0, 0.5, 0.0)) == 2
    assert Rule(COSTS, 1, frozenset({0})).choose(said, FREE) == 0
    assert Rule(COSTS, 1, frozenset({0})).choose(said, (NEVER, 0.0, 0.0)) is None


def test_a_category_has_its_expert_and_quality_stands_in_for_it() -> None:
    rule = Rule(COSTS, 1, EVERYBODY, by_category=(2, 0))
    assert rule.choose(judgement(0.5, 0.9, 0.1), FREE) == 2
    assert rule.choose(judgement(0.5, 0.9, 0.1, category=1), FREE) == 0
    assert rule.choose(judgement(0.5, 0.9, 0.1), (0.0, 0.0, NEVER)) == 1


def test_a_margin_is_over_the_strongest_and_falls_away_with_it() -> None:
    rule = Rule(COSTS, 1, EVERYBODY, margin=-0.1)
    assert rule.choose(judgement(0.85, 0.9, 0.95), FREE) == 0
    assert rule.choose(judgement(0.5, 0.9, 0.5), FREE) == 1
    assert rule.choose(judgement(0.5, 0.9, 0.6), (0.0, NEVER, 0.0)) == 2


def test_uncertain_is_what_is_strange_or_of_no_clear_category() -> None:
    rule = Rule(COSTS, 1, EVERYBODY, confidence=0.5, similarity=0.4)
    assert rule.uncertain(Judgement(0, 0.5, 0.4, FREE)) is None
    assert rule.uncertain(Judgement(0, 0.49, 0.4, FREE)) == "confidence 0.49 < 0.50"
    strange = rule.uncertain(Judgement(0, 0.9, 0.3, FREE))
    assert strange == "unlike what was trained on, 0.30 < 0.40"


def test_prices_are_the_artifacts() -> None:
    assert costs_in(ARTIFACT, "params_b").tolist() == [1.0, 8.0, 3.0]
    assert costs_in(ARTIFACT, "usd").tolist() == [0.001, 0.01, 0.002]
    assert costs_in(ARTIFACT, "share").tolist() == [0.0, 1.0, 0.0]
    unknown = known((Expert("small", 1.0), Expert("large"), Expert("other")))
    with pytest.raises(ValueError, match="does not know params_b of large, other"):
        costs_in(unknown, "params_b")


def test_without_prices_the_better_expert_is_the_dearer_one() -> None:
    assert order_of(ARTIFACT).tolist() == [1.0, 8.0, 3.0]
    nameless = known((Expert("small"), Expert("large"), Expert("other")))
    assert order_of(nameless).tolist() == [0.0, 2.0, 1.0]
    priced = known(tuple(Expert(name, usd=u) for name, u in (("a", 3.0), ("b", 1.0), ("c", 2.0))))
    assert order_of(priced).tolist() == [3.0, 1.0, 2.0]


def test_a_wish_becomes_a_rule() -> None:
    plain = rule_for(ARTIFACT, Wish())
    assert (plain.rate, plain.margin, plain.by_category) == (0.0, None, None)
    assert plain.confidence == ARTIFACT.card.confidence
    assert rule_for(ARTIFACT, Wish(confidence=0.0, similarity=0.3)).similarity == 0.3
    assert rule_for(ARTIFACT, Wish(budget=("params_b", 3.0))).rate > 0
    assert rule_for(ARTIFACT, Wish(by_category=True)).by_category is not None
    assert rule_for(ARTIFACT, Wish(risk=(0.5, 0.9))).margin is not None


def test_budgets_and_bounds_are_tried_with_the_resident_experts_only() -> None:
    """An expert that is not there may neither spend a budget nor make answers worse."""
    predicted = np.tile([0.9, 0.8, 0.99], (400, 1)) + np.linspace(-0.05, 0.05, 400)[:, None]
    actual = np.tile([1.0, 1.0, 0.0], (400, 1))
    experts = (Expert("a", 1.0), Expert("b", 8.0), Expert("c", 0.5))
    away = known(experts, resident=(0, 1))
    away = replace(away, parts=replace(away.parts, reference=Reference(predicted, actual)))
    rule = rule_for(away, Wish(risk=(0.1, 0.9)))
    assert rule.margin is not None
    assert math.isfinite(rule.margin)
    assert rule.choose(judgement(0.9, 0.8, 0.99), FREE) == 0
    with pytest.raises(ValueError, match="less than the cheapest expert costs, 1"):
        rule_for(away, Wish(budget=("params_b", 0.6)))


def test_a_map_is_the_best_that_the_budget_pays_for() -> None:
    maps = [one for one in ARTIFACT.card.maps if one.unit == "params_b"]
    assert map_for(ARTIFACT, ("params_b", 1.0)) == maps[0]
    assert map_for(ARTIFACT, ("params_b", 100.0)) == maps[-1]
    assert map_for(ARTIFACT, None).quality == maps[-1].quality
    with pytest.raises(ValueError, match=r"0\.5 is less than the cheapest map costs, 1"):
        map_for(ARTIFACT, ("params_b", 0.5))
    paid = replace(ARTIFACT, card=replace(ARTIFACT.card, maps=tuple(maps)))
    with pytest.raises(ValueError, match="were solved for params_b, not for large_share"):
        map_for(paid, ("share", 0.5))
