"""The fit of `tandem bench backend`: from timings of a server that serves nobody else to a model.

    seconds = call + prefill * prompt + decode * answer + context * answer * tokens before

as Narayanan et al. fit it (arXiv 2305.02440, section 3), with a term for attention that is kept
only where its interval excludes 0. Least squares of relative errors: a tenth of a short answer
counts as much as a tenth of a long one. No coefficient is negative. Intervals are 95 % ones, by the
covariance of the fit and Student's t over lengths: what the model does not say at a length widens
them as noise does.

Knows numbers only: no server and no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist, median
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from router.fleet import before
from router.idealised import Idealised
from router.steps import Usage

__all__ = ["TERMS", "Fitted", "FitError", "Term", "Timed", "errors", "fitted"]

Floats: TypeAlias = npt.NDArray[np.float64]

TERMS = ("call", "prefill", "decode", "context")
"""The coefficients, as the configuration calls them."""
LEVEL = 0.975
"""Of the upper end of a 95 % interval."""
PASSES = 3
"""Fits in a row: errors are relative to what the fit before foretold. After two nothing moves."""


class FitError(Exception):
    """These timings do not say what a call takes; the message says why."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One pair of lengths, in tokens, and how many seconds each of its calls took."""

    prompt: int
    completion: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """What stands for all of them: what disturbs a call only makes it longer."""
        return median(self.seconds)

    @property
    def usage(self) -> Usage:
        """Its lengths."""
        return Usage(self.prompt, self.completion)


@dataclass(frozen=True, slots=True)
class Term:
    """A coefficient with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """The coefficients; `left_out` is the interval of `context` where that was not kept."""

    terms: Mapping[str, Term]
    left_out: Term | None = None

    @property
    def idealised(self) -> Idealised:
        """The model that they make."""
        call, prefill, decode, context = (self.terms[name].value for name in TERMS)
        return Idealised(call, prefill, decode, context)


def fitted(timed: Sequence[Timed]) -> Fitted:
    """The coefficients that these lengths are told best by.

    Raises `FitError` where there are too few lengths to tell prompts and answers apart.
    """
    usages = [one.usage for one in timed]
    if len({u.prompt for u in usages}) < 2 or len({u.completion for u in usages}) < 2:
        raise FitError("two lengths of prompts and two of answers are the least to fit")
    if len(set(usages)) <= len(TERMS):
        raise FitError(f"{len(set(usages))} pairs of lengths do not fix {len(TERMS)} coefficients")
    seconds = np.asarray([one.median for one in timed])
    whole = _terms(_columns(usages, TERMS), seconds, TERMS)
    if whole["context"].low > 0:
        return Fitted(whole)
    kept = TERMS[:-1]
    terms = _terms(_columns(usages, kept), seconds, kept)
    return Fitted({**terms, "context": Term(0.0, 0.0, 0.0)}, whole["context"])


def errors(timed: Sequence[Timed], model: Idealised) -> list[float]:
    """How far the model is off at each pair of lengths, as a share of what was measured."""
    return [abs(model.seconds(one.usage) / one.median - 1) for one in timed]


def _columns(usages: Sequence[Usage], terms: Sequence[str]) -> Floats:
    """What each coefficient is multiplied with, [lengths, terms]."""
    rows = [(1, u.prompt, u.completion, u.completion * before(u)) for u in usages]
    return np.asarray(rows, dtype=np.float64)[:, : len(terms)]


def _terms(columns: Floats, seconds: Floats, names: Sequence[str]) -> dict[str, Term]:
    value, scale = _fit(columns, seconds)
    relative, target = columns / scale[:, None], seconds / scale
    width = np.linalg.norm(relative, axis=0)
    free = np.linalg.lstsq(relative / width, target, rcond=None)[0] / width
    degrees = len(seconds) - len(names)
    variance = float(np.square(target - relative @ free).sum()) / degrees
    inverse = np.linalg.pinv((relative / width).T @ (relative / width))
    half = student(degrees) * np.sqrt(variance * np.diag(inverse)) / width
    # The interval is that of the fit without bounds, as far as it keeps them.
    low = np.minimum(value, np.maximum(free - half, 0.0))
    high = np.maximum(value, free + half)
    return {
        name: Term(float(value[at]), float(low[at]), float(high[at]))
        for at, name in enumerate(names)
    }


def student(degrees: int) -> float:
    """The quantile of Student's t at `LEVEL`, to half a percent from 4 degrees of freedom on
    (Abramowitz and Stegun 1964, 26.7.5).
    """
    z = NormalDist().inv_cdf(LEVEL)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def _fit(columns: Floats, seconds: Floats) -> tuple[Floats, Floats]:
    """Coefficients of least relative error, none negative, [terms], and what errors were relative
    to, [lengths].
    """
    last = scale = seconds
    found = np.zeros(columns.shape[1])
    for _ in range(PASSES):
        found = _non_negative(columns / scale[:, None], seconds / scale)
        last, scale = scale, np.maximum(columns @ found, seconds * 1e-3)
    return found, last


def _non_negative(matrix: Floats, target: Floats) -> Floats:
    """Non-negative least squares, [columns].

    Four columns have fifteen subsets, and the solution is the best of their unconstrained ones
    that is not negative (Lawson and Hanson 1974, chapter 23). scipy's `nnls` is no part of the base
    install.
    """
    width = np.maximum(np.linalg.norm(matrix, axis=0), np.finfo(np.float64).tiny)
    best, least = np.zeros(matrix.shape[1]), np.inf
    for size in range(matrix.shape[1], 0, -1):
        for chosen in combinations(range(matrix.shape[1]), size):
            part = matrix[:, chosen] / width[[*chosen]]
            solution = np.linalg.lstsq(part, target, rcond=None)[0]
            error = float(np.square(part @ solution - target).sum())
            if (solution >= 0).all() and error < least:
                best, least = np.zeros(matrix.shape[1]), error
                best[[*chosen]] = solution / width[[*chosen]]
        if size == matrix.shape[1] and np.isfinite(least):
            break  # nothing is better than the best of all that is allowed
    return best
