"""Making a prior: kernel ridge regressions from public outcome rows, one group a source.

What comes out is read by `policies.composition.prior`; how it is used, and when a group is left
out, stands there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from policies.composition.embedder import Embedder, Progress
from policies.composition.prior import ARRAYS, CARD, hashed
from policies.training.experts.fit import kernel_ridge
from policies.training.experts.pipeline import asks_in
from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Rows

GAMMA = 1.5
PENALTY = 2.0
"""Of the kernel ridge: chosen by cross-validation on one half of the shared rows."""
POINTS = 1500
"""References a group keeps: more tell no more, and each costs every decision a dot product."""


def write_prior(
    groups: Mapping[str, Rows], embedder: Embedder, folder: Path, embedded: Progress | None = None
) -> None:
    """Fit a group to each source's rows, and write the folder. Rows with unknown scores are left
    out. `embedded` is told of so many further prompts that have their vectors.

    Raises `RowsError` for a source without a row on which every score is known.
    """
    arrays: dict[str, Any] = {}
    cards = []
    for name, held in groups.items():
        rows = held.complete()
        if not len(rows):
            raise RowsError(
                f"{name}: no row holds a score of every one of {', '.join(held.models)}"
            )
        vectors = embedder.embed([ask.text for ask in asks_in(rows)], embedded)
        points, dual, offset = kernel_ridge(vectors, rows.scores, GAMMA, PENALTY, POINTS, 0)
        arrays |= {
            f"{name}.points": points.astype(np.float16),
            f"{name}.dual": dual.astype(np.float32),
            f"{name}.offset": offset,
            f"{name}.prompts": hashed(rows.prompts),
        }
        cards.append({"name": name, "models": list(rows.models), "gamma": GAMMA, "rows": len(rows)})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARRAYS).write_bytes(save(arrays))
    card = {"kind": "prior", "embedder": embedder.fingerprint, "groups": cards}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
