"""Chance that every engine draws alike: a number from 0 to 1 for a seed and a position.

SplitMix64 (Steele, Lea and Flood, OOPSLA 2014; constants of its reference code): its n-th output
needs no output before it, so nothing has to be remembered, and asking twice gives the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policies.gate.arrays import Whole

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_MANTISSA = 53
"""Bits of a float64's fraction: as many as a uniform number can use."""


def later(seed: int, positions: int) -> int:
    """The seed whose sequence is this one's from position `positions` on; signed 64 bits."""
    moved = (seed + int(_STEP) * positions) % (1 << 64)
    return moved - (1 << 64) if moved >> 63 else moved


def uniform(seeds: Whole, positions: Whole) -> npt.NDArray[np.float64]:
    """The output number `position`, counted from 0, of each seed's sequence, in [0, 1)."""
    state = seeds.astype(np.uint64) + _STEP * (positions.astype(np.uint64) + np.uint64(1))
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    state ^= state >> np.uint64(31)
    scaled: npt.NDArray[np.float64] = (state >> np.uint64(64 - _MANTISSA)) * 2.0**-_MANTISSA
    return scaled
