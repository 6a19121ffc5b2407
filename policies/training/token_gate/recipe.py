"""How a gate is trained, and what training gives: plain data, so that naming it needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.training.token_gate.arrays import Floats

PAPER_RATE, PAPER_WIDTH = 5e-5, 1024
"""AdamW's learning rate in R2R, and the width of the network that it belongs to."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train: R2R's figures, but for a network as small as the model it watches.

    `rate` is where the learning rate begins; it falls to zero in `epochs`. None takes the paper's
    5e-5 at width 1024, more for a narrower network. `patience` is how many epochs may pass without
    a lower validation loss.
    """

    width: int = 64
    blocks: int = 1
    rate: float | None = None
    weight_decay: float = 5e-4
    batch: int = 1024
    dropout: float = 0.1
    epochs: int = 12
    patience: int = 6
    seed: int = 0

    @property
    def learning_rate(self) -> float:
        """Inversely as the width, which is how Adam's best rate goes (arXiv 2203.03466)."""
        return self.rate or PAPER_RATE * PAPER_WIDTH / self.width


@dataclass(frozen=True, slots=True)
class Fitted:
    """Weights as the artifact stores them, the scores of all examples, the validation losses."""

    weights: Mapping[str, Floats]
    scores: Floats
    losses: tuple[float, ...]
