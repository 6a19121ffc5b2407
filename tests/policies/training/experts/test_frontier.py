"""The frontier on the card, and the pictures beside it."""

from __future__ import annotations

import numpy as np
import pytest

from policies.composition.artifact import Expert
from policies.composition.budget import Reference
from policies.composition.choice import SHARE
from policies.training.experts.fit import Reals
from policies.training.experts.frontier import Frontier, figures, frontier_of, priced
from policies.training.experts.worth import binned, calibration_error

THREE = (Expert("small", 1.0), Expert("middle", 4.0, 0.1), Expert("large", 9.0))


def reference(rows: int = 300, seed: int = 0) -> Reference:
    """What is foretold is right but for a little, of three experts, the dearest the best."""
    rng = np.random.default_rng(seed)
    chances = np.clip(rng.random((rows, 1)) + np.array([-0.2, 0.0, 0.2]), 0.02, 0.98)
    return Reference(chances, (rng.random((rows, 3)) < chances).astype(float))


def frontier(given: Reference, strong: int = 2, resident: tuple[int, ...] = (0, 1, 2)) -> Frontier:
    found = frontier_of(THREE, strong, resident, given)
    assert found is not None
    return found


def test_prices_are_in_every_unit_that_all_have() -> None:
    found = priced(THREE, 1)
    assert {unit: costs.tolist() for unit, costs in found.items()} == {
        "params_b": [1.0, 4.0, 9.0],
        SHARE: [0.0, 1.0, 0.0],
    }
    unknown = (*THREE, Expert("nobody knows"))
    assert [*priced(unknown, 3)] == [SHARE]


def test_a_frontier_rises_from_the_cheapest_to_where_more_buys_nothing() -> None:
    given = reference()
    found = figures(frontier(given), seed=0)
    assert (found["unit"], found["rows"]) == ("params_b", 300)
    costs = [point["cost"] for point in found["points"]]
    assert costs[0] == 1
    assert costs[-1] <= 9
    scores = [point["score"] for point in found["points"]]
    assert scores[-1] == max(scores)
    assert scores[0] == pytest.approx(given.actual[:, 0].mean())
    assert scores[0] < scores[len(scores) // 2]
    assert all(point["score"] <= point["oracle"] + 1e-9 for point in found["points"])
    assert found["aiq"]["low"] <= found["aiq"]["value"] <= found["aiq"]["high"]


def test_of_two_the_strongest_is_the_large_one() -> None:
    """Even where it is the smaller: the share is that of the strongest."""
    found = frontier(reference(), strong=0, resident=(0, 2))
    assert found.field.models == ("large", "small")
    assert found.unit == SHARE
    pair = frontier(reference(), strong=2, resident=(0, 2))
    assert pair.field.models == ("small", "large")
    assert figures(pair, seed=0)["apgr"]["value"] > 0.5


def test_rows_that_do_not_know_every_expert_are_left_out() -> None:
    given = reference()
    actual: Reals = given.actual.copy()
    actual[:100, 1] = np.nan
    assert len(frontier(Reference(given.predicted, actual)).field.scores) == 200
    actual[:, 1] = np.nan
    assert frontier_of(THREE, 2, (0, 1, 2), Reference(given.predicted, actual)) is None
    assert frontier_of(THREE, 2, (0, 2), Reference(given.predicted, actual)) is not None
    assert frontier_of(THREE, 2, (2,), given) is None


def test_calibration_is_measured_in_bins_of_even_size() -> None:
    told = np.linspace(0, 1, 100)
    expected, came, sizes = binned(told, told**2)
    assert sizes.tolist() == [10] * 10
    assert expected[0] == pytest.approx(told[:10].mean())
    assert came[9] == pytest.approx((told[90:] ** 2).mean())
    assert calibration_error(told, told) == 0
    assert calibration_error(told, told + 0.2) == pytest.approx(0.2)
    assert calibration_error(np.zeros(0), np.zeros(0)) == 0
    assert calibration_error(np.array([0.3]), np.array([1.0])) == pytest.approx(0.7)
