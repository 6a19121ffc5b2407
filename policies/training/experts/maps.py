"""From categories to experts: the map that scores most under an active and a resident budget.

    maximise  sum_c w_c Q[c, m(c)]
    so that   sum_c w_c P[m(c)]        <= active budget     (parameters or USD per request)
              sum over used e of M[e]  <= resident budget   (memory)

(Composition of Experts, arXiv 2412.01868.) An integer program, solved exactly with HiGHS through
`scipy.optimize.milp`: with ten experts and two dozen categories a matter of milliseconds, and a
heuristic would have to be proved good.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from policies.composition.artifact import Map
from policies.training.experts.fit import Reals

BUDGETS = 40
"""Active budgets between the cheapest expert's and the dearest's that maps are solved for."""


class MapError(ValueError):
    """No map fits the budgets; the message says which."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`worth` [categories, experts] mean scores, `shares` [categories] of the rows, `memory`
    [experts] in GB, and the `resident` budget; None where memory does not matter.
    """

    worth: Reals
    shares: Reals
    memory: Reals | None = None
    resident: float | None = None

    def among(self, experts: Sequence[int]) -> Problem:
        """The same with these experts only, all of which are in memory."""
        return Problem(self.worth[:, list(experts)], self.shares)


def worth_of(scores: Reals, of_rows: Sequence[int], categories: int) -> Reals:
    """The mean score of each expert on each category's rows, the overall one where there is none.

    `scores` is [rows, experts], NaN where nobody knows.
    """
    overall = np.nanmean(scores, axis=0)
    rows = np.asarray(of_rows)
    worth = np.tile(overall, (categories, 1))
    for category in range(categories):
        part = scores[rows == category]
        known = ~np.isnan(part)
        counts = known.sum(axis=0)
        sums = np.where(known, part, 0.0).sum(axis=0)
        worth[category] = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
    return worth


def solved(problem: Problem, costs: Reals, budget: float) -> tuple[int, ...]:
    """The best map under this active budget: an expert for each category. Raises `MapError`."""
    categories, experts = problem.worth.shape
    cells = categories * experts
    unit = float(costs.max()) or 1.0  # a solver's tolerances are absolute, and a price may be 1e-5
    gain = -(problem.shares[:, None] * problem.worth).ravel()
    each = np.zeros((categories, cells + experts))
    for category in range(categories):
        each[category, category * experts : (category + 1) * experts] = 1
    spent = np.concatenate([(problem.shares[:, None] * costs / unit).ravel(), np.zeros(experts)])
    limits = [
        LinearConstraint(each, 1, 1),
        LinearConstraint(spent[None], -np.inf, budget / unit * (1 + 1e-9)),
    ]
    if problem.memory is not None and problem.resident is not None:
        used = np.eye(experts)[np.tile(np.arange(experts), categories)]
        only = np.hstack([np.eye(cells), -used])
        held = np.concatenate([np.zeros(cells), problem.memory])
        limits += [
            LinearConstraint(only, -np.inf, 0),
            LinearConstraint(held[None], -np.inf, problem.resident),
        ]
    with _unheard():
        result = milp(
            np.concatenate([gain, np.zeros(experts)]),
            constraints=limits,
            integrality=np.ones(cells + experts),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0.0},  # the default stops within 0.01 % of the best
        )
    if result.x is None:
        raise MapError(
            f"no choice of experts fits an active budget of {budget:g}"
            if problem.resident is None
            else f"no choice of experts fits {problem.resident:g} GB of memory"
            + (f" and an active budget of {budget:g}" if budget else "")
        )
    taken = result.x[:cells].reshape(categories, experts)
    return tuple(int(at) for at in taken.argmax(axis=1))


@contextmanager
def _unheard() -> Iterator[None]:
    """Drops what C code writes to standard output, so that no JSON is spoilt.

    The HiGHS of SciPy 1.17 prints a line of its authors' own debugging on some problems.
    """
    buffers = ctypes.CDLL(None)
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        buffers.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def frontier(problem: Problem, costs: Reals, unit: str) -> tuple[Map, ...]:
    """Maps for rising active budgets, each better than the one before. Raises `MapError`."""
    found: list[Map] = []
    most = float(problem.shares @ problem.worth.max(axis=1))
    for budget in np.linspace(float(costs.min()), float(costs.max()), BUDGETS):
        try:
            experts = solved(problem, costs, float(budget))
        except MapError:
            continue
        cost = float(problem.shares @ costs[list(experts)])
        quality = float(problem.shares @ problem.worth[np.arange(len(experts)), list(experts)])
        if not found or quality > found[-1].quality + 1e-12:
            found.append(Map(unit, float(budget), cost, quality, experts))
        if quality >= most - 1e-12:
            break
    if not found:
        solved(problem, costs, float(costs.max()))  # says why
    return tuple(found)


def resident_of(problem: Problem) -> tuple[int, ...]:
    """The experts that are kept in memory: those of the best map without an active budget.

    Raises `MapError` where none fits.
    """
    experts = problem.worth.shape[1]
    if problem.resident is None:
        return tuple(range(experts))
    return tuple(sorted(set(solved(problem, np.zeros(experts), 0.0))))
