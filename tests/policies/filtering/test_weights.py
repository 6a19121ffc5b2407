"""Weights: the laws of systematic resampling, and when it is due."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.filtering.weights import effective, survivors, weights_of

MARKS = st.lists(st.floats(0, 1), min_size=1, max_size=16)
DRAWS = st.floats(0, 1, exclude_max=True)
ROUNDING = 1e-9


@given(MARKS, st.floats(0.1, 10))
def test_weights_sum_to_one_and_keep_the_order_of_marks(marks: list[float], soft: float) -> None:
    weights = weights_of(marks, soft)
    assert math.fsum(weights) == pytest.approx(1)
    by_mark = sorted(range(len(marks)), key=lambda at: marks[at])
    for lower, higher in pairwise(by_mark):
        assert weights[lower] <= weights[higher] + ROUNDING


def test_weights_are_odds() -> None:
    """As in the paper, a softmax of the inverse sigmoid."""
    assert weights_of([0.9, 0.5]) == pytest.approx([0.9, 0.1])
    assert weights_of([0.9, 0.5], softness=2) == pytest.approx([0.75, 0.25])
    assert weights_of([1.0, 0.0])[0] == pytest.approx(1)
    assert weights_of([0.0, 0.0, 0.0]) == pytest.approx([1 / 3] * 3)


@given(MARKS)
def test_the_effective_size_is_from_one_to_all(marks: list[float]) -> None:
    weights = weights_of(marks)
    assert 1 - ROUNDING <= effective(weights) <= len(marks) + ROUNDING


def test_the_effective_size_of_equal_weights_is_their_number() -> None:
    assert effective([0.25] * 4) == pytest.approx(4)
    assert effective([1.0, 0.0]) == pytest.approx(1)
    assert effective([0.5, 0.5, 0.0, 0.0]) == pytest.approx(2)


@given(MARKS, DRAWS)
def test_each_gets_the_whole_part_of_its_share_or_one_more(marks: list[float], draw: float) -> None:
    """So none with a weight above 1/n is ever lost, whatever the draw."""
    weights = weights_of(marks)
    chosen = survivors(weights, draw)
    assert len(chosen) == len(weights)
    assert chosen == sorted(chosen)
    copies = Counter(chosen)
    for at, weight in enumerate(weights):
        share = weight * len(weights)
        assert math.floor(share - ROUNDING) <= copies[at] <= math.ceil(share + ROUNDING)


@given(MARKS)
def test_over_all_draws_each_is_copied_as_its_weight_says(marks: list[float]) -> None:
    weights, draws = weights_of(marks), 400
    copies = Counter[int]()
    for number in range(draws):
        copies.update(survivors(weights, (number + 0.5) / draws))
    for at, weight in enumerate(weights):
        assert copies[at] / draws == pytest.approx(weight * len(weights), abs=2 / draws)


@given(DRAWS)
def test_equal_weights_leave_everything_as_it_is(draw: float) -> None:
    assert survivors([0.25] * 4, draw) == [0, 1, 2, 3]


def test_rounding_leaves_no_point_without_a_particle() -> None:
    weights = [0.1] * 9 + [0.1 - 1e-16]
    assert survivors(weights, 1 - 2.0**-53)[-1] == 9
