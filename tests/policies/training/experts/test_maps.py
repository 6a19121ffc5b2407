"""Maps from categories to experts: the integer program against every map there is."""

from __future__ import annotations

import ctypes
import os
from itertools import product

import numpy as np
import pytest

from policies.training.experts import maps
from policies.training.experts.fit import Reals
from policies.training.experts.maps import (
    MapError,
    Problem,
    frontier,
    resident_of,
    solved,
    worth_of,
)


def made(seed: int, *, memory: bool = False) -> tuple[Problem, Reals]:
    """A small random problem, and its costs."""
    rng = np.random.default_rng(seed)
    categories, experts = int(rng.integers(1, 5)), int(rng.integers(2, 5))
    shares = rng.random(categories)
    sizes = rng.integers(1, 40, experts).astype(float)
    return Problem(
        rng.random((categories, experts)),
        shares / shares.sum(),
        sizes if memory else None,
        float(rng.uniform(sizes.min(), sizes.sum())) if memory else None,
    ), rng.uniform(1, 70, experts)


def quality(problem: Problem, experts: tuple[int, ...]) -> float:
    return float(problem.shares @ problem.worth[np.arange(len(experts)), list(experts)])


def fits(problem: Problem, costs: Reals, budget: float, experts: tuple[int, ...]) -> bool:
    if problem.memory is not None and problem.resident is not None:
        held = sum(problem.memory[expert] for expert in set(experts))
        if held > problem.resident:
            return False
    return float(problem.shares @ costs[list(experts)]) <= budget * (1 + 1e-9)


def best(problem: Problem, costs: Reals, budget: float) -> float | None:
    """By trying every map."""
    categories, experts = problem.worth.shape
    every = product(range(experts), repeat=categories)
    return max(
        (quality(problem, one) for one in every if fits(problem, costs, budget, one)), default=None
    )


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_no_map_is_better(seed: int, memory: bool) -> None:
    problem, costs = made(seed, memory=memory)
    for part in (0.0, 0.3, 0.6, 1.0):
        budget = float(costs.min() + part * (costs.max() - costs.min()))
        wanted = best(problem, costs, budget)
        if wanted is None:
            with pytest.raises(MapError):
                solved(problem, costs, budget)
            continue
        found = solved(problem, costs, budget)
        assert fits(problem, costs, budget * (1 + 1e-6), found)
        assert quality(problem, found) == pytest.approx(wanted, abs=1e-9)


def test_prices_as_small_as_a_request_costs_are_kept() -> None:
    """A solver's tolerances are absolute: 1e-6 of a dollar is below them."""
    problem, costs = made(3)
    for part in (0.2, 0.5, 0.8):
        budget = float(costs.min() + part * (costs.max() - costs.min()))
        assert solved(problem, costs * 1e-8, budget * 1e-8) == solved(problem, costs, budget)


def test_what_does_not_fit_is_said() -> None:
    problem = Problem(np.ones((2, 2)), np.array([0.5, 0.5]))
    with pytest.raises(MapError, match=r"fits an active budget of 0\.5$"):
        solved(problem, np.array([1.0, 2.0]), 0.5)
    tight = Problem(problem.worth, problem.shares, np.array([20.0, 40.0]), 10.0)
    with pytest.raises(MapError, match=r"fits 10 GB of memory and an active budget of 2$"):
        frontier(tight, np.array([1.0, 2.0]), "params_b")
    with pytest.raises(MapError, match=r"no choice of experts fits 10 GB of memory$"):
        resident_of(tight)


@pytest.mark.parametrize("seed", range(4))
def test_a_frontier_rises(seed: int) -> None:
    problem, costs = made(seed)
    maps = frontier(problem, costs, "params_b")
    assert [one.budget for one in maps] == sorted(one.budget for one in maps)
    assert [one.quality for one in maps] == sorted({one.quality for one in maps})
    assert maps[-1].quality == pytest.approx(float(problem.shares @ problem.worth.max(axis=1)))
    for one in maps:
        assert one.unit == "params_b"
        assert one.cost <= one.budget * (1 + 1e-6)
        assert one.cost == pytest.approx(float(problem.shares @ costs[list(one.experts)]))
        assert one.quality == pytest.approx(quality(problem, one.experts))


def test_experts_that_cost_the_same_have_one_map() -> None:
    problem, costs = made(1)
    (one,) = frontier(problem, np.full_like(costs, 7.0), "params_b")
    assert one.experts == tuple(problem.worth.argmax(axis=1))


def test_experts_that_cost_nothing_have_one_map() -> None:
    problem, costs = made(1)
    (one,) = frontier(problem, np.zeros_like(costs), "usd")
    assert one.cost == 0


def test_those_in_memory_are_those_of_the_best_map() -> None:
    worth = np.array([[0.9, 0.8, 0.1], [0.1, 0.7, 0.9]])
    shares = np.array([0.5, 0.5])
    assert resident_of(Problem(worth, shares)) == (0, 1, 2)
    memory = np.array([10.0, 10.0, 10.0])
    both = Problem(worth, shares, memory, 20.0)
    assert resident_of(both) == (0, 2)
    assert resident_of(Problem(worth, shares, memory, 10.0)) == (1,)
    assert solved(both.among([0, 2]), np.ones(2), 1.0) == (0, 1)


def test_worth_is_the_mean_of_what_is_known() -> None:
    scores = np.array([[1.0, 0.0], [0.5, np.nan], [np.nan, 1.0]])
    worth = worth_of(scores, [0, 0, 1], 3)
    assert worth.tolist() == [[0.75, 0.0], [0.75, 1.0], [0.75, 0.5]]


def test_what_a_solver_prints_is_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    """Some problems make this version of HiGHS print; a command's JSON must survive that."""
    with maps._unheard():
        os.write(1, b"tmpSolver.run();\n")
        ctypes.CDLL(None).puts(b"tmpSolver.run();")
    os.write(1, b"{}\n")
    assert capfd.readouterr().out == "{}\n"
