"""The choice: which model reads what, passages or the whole; one decision, since they are one.

Whether passages will do depends on who reads them (LaRA, arXiv 2502.09977: a weak model gains from
what a strong one loses by), so every pair of a reader and a way is an `Option` with an expected
quality and a price, and the cheapest one that gives up no more quality than it may is taken. A
window and a limit are no matter of price: what does not keep them is no option at all.

Knows numbers only: no request, no text, no table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policies.reading.documents import Way
from router.fleet import Price
from router.steps import Usage

__all__ = ["MARGIN", "Limits", "Option", "Reader", "in_order", "options"]

MARGIN = 1.15
"""Tokens are counted by the embedder's tokenizer, and models split text otherwise: room for that,
not a bound."""
FREE = Price()


@dataclass(frozen=True, slots=True)
class Reader:
    """Who may read: a target, and the model whose window and price hold for it (itself, if it is
    one). `like` is the model of the table of values that it is taken for.

    `window` is in tokens, None where nobody knows; `params_b` are active parameters in billions.
    `wake` is the wait, in seconds, for a model that sleeps, infinite where it cannot be woken.
    """

    target: str
    model: str
    window: int | None
    price: Price
    params_b: float
    healthy: bool = True
    wake: float = 0.0
    like: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one reading may cost at most: tokens sent, USD for them; None is no limit."""

    tokens: int | None = None
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """One reader and one way: tokens sent, the expected score (0 to 1), and what it costs.

    `cost` is in USD where prices are known, else in active parameters (billions) x tokens. `unfit`
    says why it cannot be taken; None where it can.
    """

    reader: Reader
    way: Way
    tokens: int
    value: float
    cost: float
    unfit: str | None = None


def options(
    readers: Sequence[Reader],
    tokens: Mapping[Way, int],
    values: Mapping[str, Mapping[Way, float]],
    answer: int,
    limits: Limits,
) -> list[Option]:
    """Every pair of a reader and a way.

    `tokens` are those of the prompt for each way on offer, `values` the expected scores of each
    target, `answer` the tokens that the answer may have.
    """
    priced = any(reader.price != FREE for reader in readers)
    found = []
    for reader in readers:
        for way, sent in tokens.items():
            usd = reader.price.usd(Usage(sent, answer))
            cost = usd if priced else reader.params_b * (sent + answer)
            value = values[reader.target][way]
            unfit = _unfit(reader, sent, answer, usd, limits)
            found.append(Option(reader, way, sent, value, cost, unfit))
    return found


def _unfit(reader: Reader, sent: int, answer: int, usd: float, limits: Limits) -> str | None:
    """Why this cannot be read so; None if it can. Sent tokens are taken with `MARGIN`."""
    if not reader.healthy or reader.wake == float("inf"):
        return f"{reader.target} cannot be asked"
    needed = int(sent * MARGIN) + answer
    if reader.window is not None and needed > reader.window:
        return f"{needed} tokens are more than the {reader.window} of {reader.target}"
    if limits.tokens is not None and sent > limits.tokens:
        return f"{sent} tokens are more than max_tokens, {limits.tokens}"
    if limits.usd is not None and usd > limits.usd:
        return f"{usd:.6f} USD are more than max_usd, {limits.usd:g}"
    return None


def in_order(several: Sequence[Option], give_up: float, patience: float) -> list[Option]:
    """The options that can be taken, the one to take first, then in what order to try others.

    Of those whose expected score is at most `give_up` below the best one's, the cheapest comes
    first; then the others by their score. A second of waiting for a sleeping model counts as
    `patience` of the score.
    """
    fit = [option for option in several if option.unfit is None]
    if not fit:
        return []

    def worth(option: Option) -> float:
        return option.value - patience * option.reader.wake

    best = max(map(worth, fit))
    near = [option for option in fit if worth(option) >= best - give_up]
    first = min(near, key=lambda option: (option.cost, -worth(option)))
    rest = sorted(fit, key=lambda option: (-worth(option), option.cost))
    return [first, *(option for option in rest if option is not first)]
