"""The shadow's decision beside the one that served: agreement, cost, quality, the unknown."""

from __future__ import annotations

from typing import Any

import pytest

from app.shadow import compared
from router.decide import Decision
from router.faults import Blame
from router.observe import Shadowed
from router.pool import Pool
from router.sections import BreakerConfig, ModelConfig, PriceConfig
from router.steps import Usage
from tests.app.observations import attempt, request


def pool(name: str, price: float) -> Pool:
    prices = PriceConfig(input=price, output=2 * price)
    return Pool(name, ModelConfig(backends=("http://127.0.0.1:1",), price=prices), BreakerConfig())


POOLS = {"small": pool("small", 1.0), "large": pool("large", 10.0)}


def decision(arm: str, **expected: float) -> Decision:
    return Decision(arm, {arm: 1.0}, expected)


def seen(one: Decision, other: Decision, **changes: Any) -> Shadowed:
    return compared(request(**changes), POOLS, one, ("candidate", other))


def test_the_same_model_costs_the_same() -> None:
    spent = (100 * 10 + 50 * 20) / 1e6
    alike = seen(decision("large"), decision("large"), cost=spent)
    assert alike.agreed
    assert alike.cost == alike.shadow_cost == pytest.approx(spent)


def test_another_model_costs_the_delivered_tokens_at_its_price_and_no_draft() -> None:
    draft = attempt("small", Usage(100, 40), answer=False, cost=0.1)
    answer = attempt("large", Usage(100, 50), cost=0.2)
    other = seen(decision("auto"), decision("small"), attempts=(draft, answer), cost=0.3)
    assert not other.agreed
    assert other.cost == 0.3
    assert other.shadow_cost == pytest.approx((100 * 1 + 50 * 2) / 1e6)


@pytest.mark.parametrize(
    ("arm", "changes"),
    [
        ("cascade", {}),
        ("small", {"blame": Blame.BACKEND}),
        ("small", {"attempts": (attempt(usage=None),)}),
    ],
    ids=["no model", "no answer", "no count of tokens"],
)
def test_what_cannot_be_foretold_has_no_cost_on_either_side(
    arm: str, changes: dict[str, Any]
) -> None:
    found = seen(decision("large"), decision(arm), cost=0.2, **changes)
    assert (found.cost, found.shadow_cost) == (None, None)


def test_one_policys_expectations_are_held_against_both_arms() -> None:
    judge, silent = decision("small", small=0.5, large=0.75), decision("large")
    found = seen(silent, judge)
    assert (found.score, found.shadow_score) == (0.75, 0.5)
    found = seen(judge, silent)
    assert (found.score, found.shadow_score) == (0.5, 0.75)


def test_the_shadows_own_expectations_come_first() -> None:
    found = seen(decision("large", small=0.1, large=0.2), decision("small", small=0.6, large=0.5))
    assert (found.score, found.shadow_score) == (0.5, 0.6)


def test_scores_of_two_policies_are_not_mixed() -> None:
    found = seen(decision("large", large=0.2), decision("small", small=0.6))
    assert (found.score, found.shadow_score) == (None, None)
