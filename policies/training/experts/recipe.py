"""How experts are trained: plain data, with the numbers that a training goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of a training.

    `features`: `all`, or `lexical` for a router that needs no embedder and decides in a fraction of
    a millisecond. `folds` are of the cross-fitting; `clusters` is how many categories are found
    where rows name none (None: a count that follows from the rows).
    """

    seed: int = 0
    features: Literal["all", "lexical"] = "all"
    folds: int = 5
    clusters: int | None = None
    trees: int = 200
    leaf: int = 12
    """Rows in a leaf of a tree, at least; and no tree has more than `leaves`."""
    leaves: int = 350
    columns_tried: float = 0.3
    directions: int = 64
    gamma: float = 1.0
    kernel_penalty: float = 10.0
    grams_penalty: float = 20.0
    lexical_scale: float = 0.07
    """Of a lexical number beside an embedding of length 1, where distances count."""
    most_grams: int = 50_000
    rarest: int = 3
    """Prompts that a gram must be in to count."""
    most_points: int = 6000
    """References of the kernel: all rows up to so many."""
