"""How often the verifier is wrong, and how many samples are worth drawing all the same.

Drawing until one passes the bar finds one that passes, right or not: with a verifier that passes
wrong samples, accuracy stops rising and on hard prompts falls (arXiv 2411.17501). Where each sample
has a mark of its own, what N draws come to follows exactly from how many of a prompt's samples pass
and how many of these are right. Where samples vote there is no mark before the vote: N are asked
for at once, and their vote passes the bar or does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from policies.training.calibrate import Interval, ratio
from policies.training.sampling.orders import Floats, Right
from policies.training.sampling.rows import Row, Sample
from policies.verdicts.calibrated import Cap, Rate
from policies.verdicts.plan import Prices

ORDERS = 8
"""Of the samples of each prompt, where they vote."""


@dataclass(frozen=True, slots=True)
class Passing:
    """What one prompt's samples come to by the bar alone, [N] for N = 1, 2, ... of them.

    `given` is the chance that a sample is the answer, `right` that a right one is; `drawn` is how
    many samples that takes and `calls` in how many calls. `wrong_passed` of `wrong` looks passed
    though the sample was wrong, `right_passed` of `rights` since it was right.
    """

    given: Floats
    right: Floats
    drawn: Floats
    calls: Floats
    wrong: float
    wrong_passed: float
    rights: float
    right_passed: float


@dataclass(frozen=True, slots=True)
class Bar:
    """What is good enough: a mark from here on; votes are counted over so many samples."""

    value: float
    voters: int


def capped(rows: Sequence[Row], right: Right, bar: Bar, prices: Prices, worth: float) -> Cap:
    """The cap on these rows where a right answer is worth so many mean large answers.

    Every row has the same number of samples. Where none passes, the large model answers.
    """
    rng = np.random.default_rng(0)
    most = min(len(row.samples) for row in rows)
    found = [passing(row, right, bar, most, rng) for row in rows]
    large = np.array([float(right(row, row.large)) for row in rows])
    handed = 1 - np.stack([one.given for one in found])
    rights = np.stack([one.right for one in found]) + handed * large[:, None]
    price, dear = prices.small, prices.large
    prompts = np.array([row.prompt_tokens for row in rows])
    asked = prompts * dear.input + np.array([row.large.tokens for row in rows]) * dear.output
    length = np.array([np.mean([sample.tokens for sample in row.samples]) for row in rows])
    judged = np.array([row.judged for row in rows]) @ (prices.judge.input, prices.judge.output)
    sample = length * price.output + judged
    cost = np.stack([one.calls for one in found]) * (prompts * price.input)[:, None]
    cost = cost + np.stack([one.drawn for one in found]) * sample[:, None]
    cost = (cost + handed * asked[:, None]).mean(axis=0) / asked.mean()
    accuracy = rights.mean(axis=0)
    return Cap(
        bar=bar.value,
        most=int(np.argmax(worth * accuracy - cost)) + 1,
        accuracy=_short(accuracy),
        cost=_short(cost),
        false_positive=_rate([(one.wrong_passed, one.wrong) for one in found]),
        true_positive=_rate([(one.right_passed, one.rights) for one in found]),
    )


def passing(row: Row, right: Right, bar: Bar, most: int, rng: np.random.Generator) -> Passing:
    """What the samples of one prompt come to, 1 to `most` of them."""
    known = [right(row, sample) for sample in row.samples]
    if any(sample.answer is not None for sample in row.samples):
        return _voting(row.samples, known, bar, most, rng)
    return _drawing([sample.mark for sample in row.samples], known, bar.value, most)


def _drawing(
    marks: Sequence[float | None], right: Sequence[bool], bar: float, most: int
) -> Passing:
    """One after the other until one passes; the first to pass is any of those that would."""
    passed = [mark is not None and mark >= bar for mark in marks]
    good = sum(one and other for one, other in zip(passed, right, strict=True))
    count, number = sum(passed), len(marks)
    none = np.array([comb(number - count, n) / comb(number, n) for n in range(most + 1)])
    given = 1 - none[1:]
    return Passing(
        given=given,
        right=given * (good / count if count else 0.0),
        drawn=np.cumsum(none[:-1]),
        calls=np.cumsum(none[:-1]),
        wrong=float(number - sum(right)),
        wrong_passed=float(count - good),
        rights=float(sum(right)),
        right_passed=float(good),
    )


def _voting(
    samples: Sequence[Sample],
    right: Sequence[bool],
    bar: Bar,
    most: int,
    rng: np.random.Generator,
) -> Passing:
    """N at once; the answer of most passes, or does not."""
    order = np.stack([rng.permutation(len(samples))[:most] for _ in range(ORDERS)])
    answers = np.array(_numbered(samples))[order]
    agree = (answers[:, :, None] == answers[:, None, :]) & (answers >= 0)[:, :, None]
    votes = np.tril(np.ones((most, most))).T * agree.cumsum(axis=2)  # [order, sample, N - 1]
    best = votes.argmax(axis=1)  # the first of equal ones, as `best_of`
    passes = votes.max(axis=1) / np.arange(1, most + 1) >= bar.value
    good = np.take_along_axis(np.asarray(right, bool)[order], best, axis=1)
    told = min(bar.voters, most) - 1
    return Passing(
        given=passes.mean(axis=0),
        right=(passes & good).mean(axis=0),
        drawn=np.arange(1.0, most + 1),
        calls=np.ones(most),
        wrong=float((~good[:, told]).sum()),
        wrong_passed=float((passes & ~good)[:, told].sum()),
        rights=float(good[:, told].sum()),
        right_passed=float((passes & good)[:, told].sum()),
    )


def _numbered(samples: Sequence[Sample]) -> list[int]:
    """The samples' answers as numbers, equal for equal ones; below 0 where there is none."""
    known = list(dict.fromkeys(sample.answer for sample in samples))
    return [-1 if one.answer is None else known.index(one.answer) for one in samples]


def _rate(pairs: Sequence[tuple[float, float]]) -> Rate:
    found: Interval = ratio([passed for passed, _ in pairs], [whole for _, whole in pairs])
    return Rate(*(round(value, 4) for value in (found.value, found.low, found.high)))


def _short(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
