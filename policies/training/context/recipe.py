"""How the heads that tell tasks are trained: plain data.

The numbers were chosen by cross-validation on the documents of one half of LaRA's (those whose
name's MD5 says so, `tandem rows --part` cuts alike), and stayed what they were when all were
looked at.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of a training. `folds` are of the cross-validation, by document."""

    seed: int = 0
    folds: int = 10
    penalty: float = 0.1
    """Inverse of scikit-learn's C."""
    rarest: int = 2
    """Questions that an n-gram must be in to count."""
    common: int = 6
    """Documents whose questions must use a word that outlines keep."""
    lexical_scale: float = 0.1
    measure_scale: float = 0.05
    """Of a number in units of its spread, beside an embedding of length 1."""
