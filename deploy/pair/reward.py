"""A reward head: how right an answer looks to the large model, whole or not.

The head is a linear function of the mean of the model's final hidden states over question and
answer. It was trained on answers of the small model, on whole ones and on beginnings that end with
a step (`train_reward`), so it gives a value to each of them: a process reward model. Knows one
model's shape and the file of the head. Must not know HTTP or training; numpy is all it needs.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.pair.graph import Graph, ModelFilesError
from deploy.pair.sampling import Floats

REWARD_FILE = "reward.json"


@dataclass(frozen=True, slots=True)
class RewardHead:
    """`weights` [hidden] and `bias` of a logit; `bar` is a probability from which it is good."""

    weights: Floats
    bias: float
    bar: float

    def score(self, state: Floats, *, squashed: bool = True) -> float:
        """Of a mean hidden state [hidden]: the probability of a right answer, or its logit."""
        logit = float(state @ self.weights) + self.bias
        return sigmoid(logit) if squashed else logit


def sigmoid(logit: float) -> float:
    """From 0 to 1; 0.5 for 0. Never overflows."""
    return 0.5 + 0.5 * math.tanh(0.5 * logit)


def load_head(folder: Path, graph: Graph) -> RewardHead | None:
    """The head in a model's folder, if there is one.

    Raises ModelFilesError for one that is damaged, or was trained for other weights.
    """
    file = folder / REWARD_FILE
    if not file.is_file():
        return None
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        weights = np.asarray(told["weights"], dtype=np.float32)
        bias, bar, made_for = float(told["bias"]), float(told["bar"]), told["graph"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFilesError(f"{file} is damaged: {error!r}") from error
    if made_for != f"{graph.checksum:08x}":
        raise ModelFilesError(
            f"{file} was trained for other weights (graph {made_for}, here {graph.checksum:08x}): "
            f"python -m deploy.pair.train_reward"
        )
    if weights.shape != (graph.shape.hidden,) or not np.isfinite([*weights, bias]).all():
        raise ModelFilesError(
            f"{file} is damaged: its weights are not {graph.shape.hidden} numbers"
        )
    return RewardHead(weights, bias, bar)
