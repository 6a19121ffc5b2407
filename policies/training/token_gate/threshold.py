"""From scores to a threshold, and how good the scores are.

Pure functions of two arrays, scores [n] in 0..1 and labels [n]. The rule is the paper's: of a
hundred thresholds, the one that lets the fewest tokens fire and still finds enough of the divergent
ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.training.token_gate.arrays import Bools, Floats

CANDIDATES = np.linspace(0.01, 0.99, 100)
"""As in the paper."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold and what it does: `recall` of divergent tokens, `positive_rate` of all."""

    threshold: float
    recall: float
    positive_rate: float


def candidates(scores: Floats, labels: Bools) -> list[Choice]:
    """What every candidate does; a token fires at a score that is not below it."""
    choices = []
    for threshold in CANDIDATES:
        fires = scores >= threshold
        recall = float(fires[labels].mean()) if labels.any() else 1.0
        choices.append(Choice(float(threshold), recall, float(fires.mean())))
    return choices


def choose(choices: list[Choice], recall: float) -> Choice:
    """The lowest positive rate with this recall; where none has it, the highest recall there is."""
    enough = [choice for choice in choices if choice.recall >= recall]
    if enough:
        return min(enough, key=lambda choice: (choice.positive_rate, choice.threshold))
    return max(choices, key=lambda choice: (choice.recall, -choice.positive_rate))


def auc(scores: Floats, labels: Bools) -> float:
    """The chance that a divergent token scores above another one (Mann and Whitney); ties half."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    above = float(ranks[labels].sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)
