"""What a model's answer to a row cost, in the best unit that the rows allow.

In USD where the rows say so. Else in *parameters*: what a model has active, in billions, times the
tokens of its answer where their number can be told from its length (a token is four characters),
times 1 where it cannot. That is work and not money, but the same everywhere (R2R, arXiv 2505.21600,
counts so too).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Floats, Rows

__all__ = ["Costs", "Unit", "costs_of"]

CHARACTERS = 4.0
"""Of English text per token, the customary figure."""


class Unit(StrEnum):
    """What a cost is counted in, per request."""

    USD = "usd"
    """As the rows state it, in `cost/MODEL`."""
    WORK = "work"
    """Billions of active parameters times tokens of the answer."""
    PARAMETERS = "parameters"
    """Billions of active parameters."""

    @property
    def said(self) -> str:
        """For headings and axes."""
        return {
            Unit.USD: "USD per request",
            Unit.WORK: "parameters x tokens per request (billions)",
            Unit.PARAMETERS: "active parameters per request (billions)",
        }[self]


@dataclass(frozen=True, slots=True)
class Costs:
    """[rows, models] in `unit`."""

    values: Floats
    unit: Unit


def costs_of(rows: Rows, params_b: Sequence[float], unit: Unit | None = None) -> Costs:
    """Each answer's cost; in `unit`, or in the first of USD, work, parameters that the rows allow.

    Raises `RowsError` where `unit` asks for what the rows do not hold.
    """
    lengths = _lengths(rows)
    if unit is Unit.USD and rows.costs is None:
        raise RowsError("the rows hold no costs: add columns cost/MODEL, or leave --cost out")
    if unit is Unit.WORK and lengths is None:
        raise RowsError("no length of an answer is known: add columns chars/MODEL or output/MODEL")
    if rows.costs is not None and unit in (None, Unit.USD):
        return Costs(_known(rows.costs, "cost"), Unit.USD)
    sizes = np.broadcast_to(np.asarray(params_b, dtype=np.float64), rows.scores.shape)
    if lengths is None or unit is Unit.PARAMETERS:
        return Costs(sizes.copy(), Unit.PARAMETERS)
    return Costs(sizes * np.maximum(_filled(lengths) / CHARACTERS, 1.0), Unit.WORK)


def _lengths(rows: Rows) -> Floats | None:
    if rows.lengths is not None:
        return rows.lengths
    if rows.outputs is None:
        return None
    sizes = [[np.nan if text is None else len(text) for text in row] for row in rows.outputs]
    return np.asarray(sizes, dtype=np.float64)


def _known(values: Floats, name: str) -> Floats:
    if np.isnan(values).any():
        row, model = np.argwhere(np.isnan(values))[0]
        raise RowsError(f"row {row + 1}: {name} of model {model + 1} is missing; give all or none")
    return values


def _filled(lengths: Floats) -> Floats:
    """Where an answer's length is unknown, the model's mean length over the rows, or 0."""
    known = ~np.isnan(lengths)
    sums = np.where(known, lengths, 0.0).sum(axis=0)
    means = sums / np.maximum(known.sum(axis=0), 1)
    return np.where(known, lengths, means)
