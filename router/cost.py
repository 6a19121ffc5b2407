"""What an answer cost, and what it would have cost without Tandem: pure sums over attempts.

Two figures stand side by side for every request. *Spent* is the price of all that was run for it:
the answer, and also drafts that were thrown away, grades, and hedges that lost. The *baseline* is
the price of the same answer from one model alone (the large one, as a rule): its input price for
the prompt, once (all of it, also where a policy has sent only a part), and its output price for
the tokens that the client got. What was saved is the difference, and it is negative when a policy's
extra calls cost more than they spared.

Token counts are the backends' own, or an estimate where an answer was cut short. An attempt of
which nothing is known adds nothing to either figure; it is counted elsewhere, so that the gap is
seen. Prompt tokens from a prefix cache cost the full input price, since a `Price` knows no
discount; but what a request sends again to go on with its own answer (`held`) is paid for once.

This file knows prices, counts and no model by name. It reads no clock and keeps no state, and it
must stay so: the gateway's bill and the offline replay of a log are the same few functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from router.fleet import Price
from router.observe import AttemptEnded
from router.steps import Usage

__all__ = ["active_params", "baseline", "cost", "delivered", "handoffs", "priced", "saved"]


def cost(usage: Usage, price: Price, held: int = 0, choices: int = 1) -> float:
    """USD for these tokens at this price, `held` of the prompt's having been paid for before;
    `choices` is how many answers they make.
    """
    return price.usd(usage, held, choices)


def priced(attempts: Iterable[AttemptEnded], prices: Mapping[str, Price]) -> float:
    """USD for everything that was run, whether or not the client got it.

    Raises KeyError for an attempt on a model without a price: every configured model has one.
    """
    return sum(
        cost(a.usage, prices[a.model], a.held, a.choices) for a in attempts if a.usage is not None
    )


def delivered(attempts: Iterable[AttemptEnded]) -> Usage:
    """The tokens of the answer as the client sees it, however many attempts wrote it.

    The prompt is that of the first attempt that answered: a hand-off sends it again, with the
    answer so far behind it, and one model alone would have read it once. `cached` is that same
    attempt's.
    """
    prompt = cached = completion = 0
    first = True
    for attempt in attempts:
        completion += attempt.written
        if first and attempt.answer and attempt.usage is not None:
            prompt, cached, first = attempt.usage.prompt, attempt.usage.cached, False
    return Usage(prompt, completion, cached)


def baseline(attempts: Iterable[AttemptEnded], price: Price) -> float:
    """USD for the same answer from the model with this price alone."""
    return cost(delivered(attempts), price)


def saved(spent: float, baseline: float) -> float:
    """The part of the baseline that was not spent: 0.4 for 40 %; negative if more was spent.

    0 when there is no baseline to compare with (no answer, or a model that costs nothing).
    """
    return 1 - spent / baseline if baseline else 0.0


def handoffs(attempts: Iterable[AttemptEnded]) -> int:
    """How often the model that writes the answer changed."""
    writers = [attempt.model for attempt in attempts if attempt.written]
    return sum(one != other for one, other in pairwise(writers))


def active_params(attempts: Iterable[AttemptEnded], params_b: Mapping[str, float]) -> float:
    """Parameters that were active per token of the answer, on average, in billions.

    The sum over models of parameters x tokens generated, thrown-away ones included, over the tokens
    that the client got; the cost measure of R2R (arXiv 2505.21600). 0 if the client got none.
    """
    work = 0.0
    tokens = 0
    for attempt in attempts:
        if attempt.usage is None:
            continue
        work += params_b[attempt.model] * attempt.usage.completion
        tokens += attempt.written
    return work / tokens if tokens else 0.0
