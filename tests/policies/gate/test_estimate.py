"""Entropy from the top k: the truth lies between the bounds, and they close as k grows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.gate.estimate import LARGEST_VOCABULARY, bounds
from tests.policies.gate import plain


@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(21, 500), st.floats(0.01, 20))
def test_the_truth_lies_between(seed: int, k: int, size: int, scale: float) -> None:
    logits = np.random.default_rng(seed).normal(size=size) * scale
    logprobs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    top = np.sort(logprobs)[::-1][:k].tolist()
    truth = plain.entropy(logits.tolist())
    low, high = bounds(top, size)
    # Missing mass that is taken for rounding, 1e-6, may hold this much.
    slack = 1e-6 * math.log2(size / 1e-6)
    assert 0 <= low <= truth + slack
    assert truth <= high + slack
    wide = bounds(top)
    assert (wide[0], wide[1] >= high) == (low, True)


@given(st.integers(0, 2**32), st.integers(2, 40))
def test_all_of_them_leave_no_doubt(seed: int, size: int) -> None:
    logits = np.random.default_rng(seed).normal(size=size) * 3
    logprobs = logits - np.log(np.exp(logits).sum())
    low, high = bounds(logprobs.tolist(), size)
    assert low == high == pytest.approx(plain.entropy(logits.tolist()), abs=1e-4)


def test_more_of_them_leave_less_doubt() -> None:
    logits = np.sort(np.random.default_rng(1).normal(size=200) * 3)[::-1]
    logprobs = (logits - np.log(np.exp(logits).sum())).tolist()
    doubt = [high - low for low, high in (bounds(logprobs[:k], 200) for k in (1, 5, 20, 100, 200))]
    assert doubt == sorted(doubt, reverse=True)
    assert doubt[-1] == 0 < doubt[-2]


@pytest.mark.parametrize(
    ("logprobs", "vocabulary", "wanted"),
    [
        ([0.0], 1000, (0.0, 0.0)),
        ([0.0, -math.inf], 1000, (0.0, 0.0)),
        ([math.log(0.5)], 3, (1.0, 1.5)),  # one token more of 1/2, or two of 1/4
        ([math.log(0.5), math.log(0.25)], 4, (1.5, 1.75)),
        ([1e-7], 1000, (0.0, 0.0)),  # rounded above 1
        ([math.log(0.5)], None, (1.0, 1.0 + 0.5 * math.log2(LARGEST_VOCABULARY - 1))),
    ],
)
def test_by_hand(
    logprobs: list[float], vocabulary: int | None, wanted: tuple[float, float]
) -> None:
    assert bounds(logprobs, vocabulary) == pytest.approx(wanted, abs=1e-6)


def test_without_any_there_is_no_estimate() -> None:
    with pytest.raises(ValueError, match="no log-probability"):
        bounds([], 10)
