"""The cap: what drawing on comes to with a verifier that is wrong at times."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from policies.training.sampling.cap import Bar, capped, passing
from policies.verdicts.plan import Prices
from router.fleet import Price
from tests.policies.training.sampling.made_rows import World, is_right

CHEAP = Prices(Price(0.0, 0.01), Price(0.0, 1.0))
"""A sample costs less than a hundredth of a large answer."""


def accuracy(false_positive: float, large: float) -> tuple[float, ...]:
    world = World(difficulties=(0.05,), passes=(false_positive, 0.9), large=large)
    return capped(world.rows(400).rows, is_right, Bar(0.5, 4), CHEAP, 20.0).accuracy


def test_what_draws_come_to_is_what_drawing_comes_to() -> None:
    """The closed form against thousands of draws of one prompt's samples."""
    row = World(difficulties=(0.4,), passes=(0.3, 0.7)).rows(1, seed=3).rows[0]
    found = passing(row, is_right, Bar(0.5, 4), 6, np.random.default_rng(0))
    rng, times = random.Random(1), 4000
    given, right, drawn = np.zeros(6), np.zeros(6), np.zeros(6)
    for _ in range(times):
        order = rng.sample(row.samples, 6)
        first = next((at for at, one in enumerate(order) if (one.mark or 0.0) >= 0.5), None)
        for n in range(6):
            passed = first is not None and first <= n
            given[n] += passed
            right[n] += passed and first is not None and is_right(row, order[first])
            drawn[n] += first + 1 if passed and first is not None else n + 1
    assert found.given == pytest.approx(given / times, abs=0.03)
    assert found.right == pytest.approx(right / times, abs=0.03)
    assert found.drawn == pytest.approx(drawn / times, abs=0.12)


def test_a_verifier_without_faults_makes_more_samples_better() -> None:
    found = accuracy(0.0, large=0.0)
    assert all(one <= other for one, other in pairwise(found))
    assert found[-1] > 4 * found[0]


def test_one_with_faults_makes_hard_prompts_worse_than_the_large_model() -> None:
    """Wrong samples pass in the end, and the large model is asked no more (arXiv 2411.17501)."""
    found = accuracy(0.3, large=1.0)
    assert all(one > other for one, other in pairwise(found))
    assert found[0] > 0.65
    assert found[-1] < 0.3


def test_the_cap_follows_from_the_faults() -> None:
    world = World(difficulties=(0.3, 0.6), large=0.95)
    caps = []
    for false_positive in (0.0, 0.05, 0.5):
        faulty = World(world.difficulties, (false_positive, 0.9), world.large)
        cap = capped(faulty.rows(400).rows, is_right, Bar(0.5, 4), CHEAP, 20.0)
        assert cap.false_positive.value == pytest.approx(false_positive, abs=0.03)
        assert cap.false_positive.low <= cap.false_positive.value <= cap.false_positive.high
        assert cap.true_positive.value == pytest.approx(0.9, abs=0.03)
        caps.append(cap.most)
    assert caps[0] >= caps[1] >= caps[2] == 1
    assert caps[0] > caps[2]


def test_votes_are_counted_over_all_that_are_asked_at_once() -> None:
    rows = World(difficulties=(0.9,)).rows(200).rows
    cap = capped(rows, is_right, Bar(0.7, 4), CHEAP, 20.0)
    assert cap.accuracy[0] == pytest.approx(0.9, abs=0.03)  # one agrees with itself
    assert cap.accuracy[1] > cap.accuracy[0]  # two that differ go to the large model
    assert cap.false_positive.value < 0.6
    assert cap.true_positive.value > 0.85
