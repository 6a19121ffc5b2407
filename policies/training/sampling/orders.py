"""Rows in several orders of their samples: what serving would see after each stage.

Samples are exchangeable, so that every order of them is one more look at the same prompt: a table
fitted on several of them moves less. Prompts stay what is counted; orders of one prompt depend on
each other. Marks and the choice of the best are the policy's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from policies.training.sampling.rows import Row, Sample
from policies.verdicts.votes import best_of, shares

Floats: TypeAlias = npt.NDArray[np.float64]
Right: TypeAlias = Callable[[Row, Sample], bool]
"""Whether a sample of a row is right."""


@dataclass(frozen=True, slots=True)
class Looks:
    """n prompts, each in o orders, after s stages.

    `marks` [n, o, s] of the best sample, NaN where it has none; `right` [n, o, s] whether it is
    right (0 or 1); `tokens` [n, o, s] of the stage's new samples. Of each prompt [n]: whether the
    large model is right, how long its answer and the prompt are, and what judging one sample takes
    [n, 2]. `totals` are the numbers of samples after each stage.
    """

    totals: tuple[int, ...]
    marks: Floats
    right: Floats
    tokens: Floats
    large: Floats
    large_tokens: Floats
    prompt_tokens: Floats
    judged: Floats

    def __len__(self) -> int:
        return len(self.large)

    def at(self, rows: npt.NDArray[np.intp]) -> Looks:
        """Of these prompts only."""
        return Looks(
            self.totals,
            self.marks[rows],
            self.right[rows],
            self.tokens[rows],
            self.large[rows],
            self.large_tokens[rows],
            self.prompt_tokens[rows],
            self.judged[rows],
        )


def looked(
    rows: Sequence[Row], totals: Sequence[int], right: Right, orders: int, seed: int = 0
) -> Looks:
    """These rows after stages of `totals` samples, each in so many random orders.

    A first stage of one sample is the first as a client asks for it, as in serving; it stays the
    same in every order. Where the stages draw more than a row has samples, ValueError.
    """
    rng = np.random.default_rng(seed)
    shape = (len(rows), orders, len(totals))
    found = {name: np.full(shape, np.nan) for name in ("marks", "right", "tokens")}
    for at, row in enumerate(rows):
        known = {id(sample): float(right(row, sample)) for sample in (row.first, *row.samples)}
        for order in range(orders):
            drawn = ordered(row, totals, rng)
            before = 0
            for stage, total in enumerate(totals):
                marks = marks_of(drawn[:total], total)
                best = best_of(marks)
                place = at, order, stage
                if best is not None and (mark := marks[best]) is not None:
                    found["marks"][place] = mark
                found["right"][place] = known[id(drawn[best or 0])]
                found["tokens"][place] = sum(sample.tokens for sample in drawn[before:total])
                before = total
    return Looks(
        tuple(totals),
        found["marks"],
        found["right"],
        found["tokens"],
        np.array([float(right(row, row.large)) for row in rows]),
        np.array([row.large.tokens for row in rows]),
        np.array([row.prompt_tokens for row in rows]),
        np.array([row.judged for row in rows], dtype=np.float64).reshape(len(rows), 2),
    )


def ordered(row: Row, totals: Sequence[int], rng: np.random.Generator) -> list[Sample]:
    """The samples of a row in one random order, as many as the last stage has."""
    alone = totals[0] == 1
    drawn = [row.samples[place] for place in rng.permutation(len(row.samples))]
    drawn = ([row.first, *drawn] if alone else drawn)[: totals[-1]]
    if len(drawn) < totals[-1]:
        raise ValueError(f"stages of {totals[-1]} samples, and a row has {len(drawn)}")
    return drawn


def marks_of(samples: Sequence[Sample], total: int) -> list[float | None]:
    """The marks of the samples so far: each its own, or the share of those that agree with it."""
    if any(sample.mark is not None for sample in samples):
        return [sample.mark for sample in samples]
    answers = [sample.answer for sample in samples]
    return shares(answers, [sample.logprob for sample in samples], total)
