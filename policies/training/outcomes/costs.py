"""What a model's answer to a row cost, in the best unit that the rows allow.

In USD where the rows say so. Else in *parameters*: what a model has active, in billions, times the
tokens of its answer where their number can be told from its length (a token is four characters),
times 1 where it cannot. That is work and not money, but the same everywhere (R2R, arXiv 2505.21600,
counts so too). Where a model's size is not known, in its list price; where that is not known
either, in ranks, which is enough for a share of the better of two models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from policies.training.outcomes.errors import RowsError
from policies.training.outcomes.rows import Floats, Rows
from router.fleet import Price
from router.idealised import Idealised
from router.steps import Usage

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
    PRICE = "price"
    """USD per million tokens of an answer."""
    IDEALISED = "idealised"
    """Seconds that the answer takes, served alone (`router.idealised`)."""
    IDEALISED_USD = "idealised_usd"
    """USD of these seconds, at the price of an accelerator's hour."""
    RANK = "rank"
    """1 for the model with the lowest mean score, 2 for the next: an order, not an amount."""

    @property
    def said(self) -> str:
        """For headings and axes."""
        return {
            Unit.USD: "USD per request",
            Unit.WORK: "parameters x tokens per request (billions)",
            Unit.PARAMETERS: "active parameters per request (billions)",
            Unit.PRICE: "USD per million tokens of the answer",
            Unit.IDEALISED: "idealised seconds per request",
            Unit.IDEALISED_USD: "idealised USD per request",
            Unit.RANK: "rank by mean score",
        }[self]


@dataclass(frozen=True, slots=True)
class Costs:
    """[rows, models] in `unit`."""

    values: Floats
    unit: Unit


def costs_of(
    rows: Rows,
    params_b: Sequence[float],
    prices: Sequence[Price | None],
    unit: Unit | None = None,
    alone: Sequence[Idealised | None] = (),
) -> Costs:
    """Each answer's cost in `unit`, or in the first unit in which it is known of every model.

    `params_b` are billions, NaN where nobody knows, and `alone` what a model takes served alone.
    Raises `RowsError` where `unit` asks for what is not known.
    """
    known = dict(_known(rows, np.asarray(params_b, dtype=np.float64), prices, alone))
    if unit is None:
        unit = next(iter(known))
    if unit not in known:
        raise RowsError(f"--cost {unit.value}: {_MISSING[unit]}")
    return Costs(np.array(np.broadcast_to(known[unit], rows.scores.shape)), unit)


_MISSING = {
    Unit.USD: "the rows hold no costs: add columns cost/MODEL",
    Unit.WORK: "a size or the answers' lengths are not known: give --params, or chars/MODEL",
    Unit.PARAMETERS: "a model's size is not known: give --params NAME=BILLIONS",
    Unit.PRICE: "a model's price is not known",
    Unit.IDEALISED: "answers' lengths, or a model's `idealised` in the --config, are not known",
    Unit.IDEALISED_USD: "the same, or a model's `usd_per_hour`, is not known",
}


def _known(
    rows: Rows,
    params_b: Floats,
    prices: Sequence[Price | None],
    alone: Sequence[Idealised | None],
) -> Iterator[tuple[Unit, Floats]]:
    """Every unit in which all models' costs are known, the best first."""
    if rows.costs is not None:
        yield Unit.USD, _complete(rows.costs)
    if not np.isnan(params_b).any():
        lengths = _lengths(rows)
        if lengths is not None:
            yield Unit.WORK, params_b * np.maximum(_filled(lengths) / CHARACTERS, 1.0)
        yield Unit.PARAMETERS, params_b
    if all(price is not None and price.output for price in prices):
        yield Unit.PRICE, np.asarray([price.output for price in prices if price is not None])
    yield from idealised_of(rows, alone).items()
    ranks = np.argsort(np.argsort(np.nanmean(rows.scores, axis=0)))
    yield Unit.RANK, 1.0 + ranks.astype(np.float64)


def idealised_of(rows: Rows, alone: Sequence[Idealised | None]) -> dict[Unit, Floats]:
    """What each answer takes served alone, [rows, models], in the units in which that is known.

    `alone` are the models' coefficients in the order of the columns. Of every model or of none:
    nothing is made up. Tokens are characters over `CHARACTERS`.
    """
    known = [one for one in alone if one is not None]
    lengths = _lengths(rows)
    if lengths is None or len(known) < len(rows.models):
        return {}
    read = [max(round(_read(rows, row) / CHARACTERS), 1) for row in range(len(rows))]
    written = np.maximum(_filled(lengths) / CHARACTERS, 1.0).round().astype(int).tolist()
    ideals = [
        [one.ideal(Usage(prompt, answer)) for one, answer in zip(known, answers, strict=True)]
        for prompt, answers in zip(read, written, strict=True)
    ]
    found = {Unit.IDEALISED: np.asarray([[ideal.seconds for ideal in row] for row in ideals])}
    if all(one.usd_per_hour is not None for one in known):
        found[Unit.IDEALISED_USD] = np.asarray(
            [[ideal.usd for ideal in row] for row in ideals], dtype=np.float64
        )
    return found


def _read(rows: Rows, row: int) -> int:
    """Characters of a row's whole prompt."""
    messages = rows.messages[row] if rows.messages else None
    if messages is None:
        return len(rows.prompts[row])
    said = (message.get("content") for message in messages)
    return sum(len(text) for text in said if isinstance(text, str))


def _lengths(rows: Rows) -> Floats | None:
    if rows.lengths is not None:
        return rows.lengths
    if rows.outputs is None:
        return None
    sizes = [[np.nan if text is None else len(text) for text in row] for row in rows.outputs]
    return np.asarray(sizes, dtype=np.float64)


def _complete(costs: Floats) -> Floats:
    if np.isnan(costs).any():
        row, model = np.argwhere(np.isnan(costs))[0]
        raise RowsError(f"row {row + 1}: cost of model {model + 1} is missing; give all or none")
    return costs


def _filled(lengths: Floats) -> Floats:
    """Where an answer's length is unknown, the model's mean length over the rows, or 0."""
    known = ~np.isnan(lengths)
    sums = np.where(known, lengths, 0.0).sum(axis=0)
    means = sums / np.maximum(known.sum(axis=0), 1)
    return np.where(known, lengths, means)
