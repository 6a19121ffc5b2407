"""Idealised runtime: how long an answer would have taken, served alone on the model's own hardware.

A measured latency says as much about who else was being served as about the answer. Narayanan et
al. (arXiv 2305.02440, section 3) compare models by what a fitted model of prefill and decode gives
instead: batch 1, uniform hardware, nobody else. Its cost-aware variant is accelerator-seconds times
the price of an hour.

Several attempts count as if one came after the other, several choices of one call alike, their
prompt read once. Tokens that a request goes on from (`held`) are not read again; other hits of a
prefix cache do not count, since they depend on who was served before.

Pure functions of token counts: this file knows no model by name, no clock and no load.
`tandem bench backend` fits the coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from router.fleet import Price, before
from router.steps import Usage

__all__ = ["Ideal", "Idealised", "together"]

HOUR = 3600.0
"""Seconds: accelerators are priced by the hour."""
MILLION = 1e6
"""Prices are for a million tokens."""


@dataclass(frozen=True, slots=True)
class Ideal:
    """What one answer takes alone: `seconds`, times accelerators, and USD where an hour's price is
    known.
    """

    seconds: float
    accelerator_seconds: float
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class Idealised:
    """How long one model takes alone on its reference hardware, whichever of its servers is asked.

    In seconds: `call` for every call, `prefill` for a token of the prompt, `decode` for one of the
    answer, and `context` more for each token that stands before that one. `usd_per_hour` is the
    price of one of its `accelerators`, None where nobody has said.
    """

    call: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    context: float = 0.0
    accelerators: int = 1
    usd_per_hour: float | None = None

    def seconds(self, usage: Usage, held: int = 0, choices: int = 1) -> float:
        """Of one call with these tokens, `held` of the prompt's being there already."""
        return (
            self.call
            + self.prefill * max(usage.prompt - held, 0)
            + self.decode * usage.completion
            + self.context * usage.completion * before(usage, choices)
        )

    def ideal(self, usage: Usage, held: int = 0, choices: int = 1) -> Ideal:
        """The same with what it costs."""
        seconds = self.seconds(usage, held, choices)
        rate = self._rate
        return Ideal(seconds, seconds * self.accelerators, None if rate is None else seconds * rate)

    @property
    def price(self) -> Price | None:
        """What its calls cost by this alone; None where no price of an hour is known.

        A call costs by it what `ideal` says, to the last term.
        """
        rate = self._rate
        if rate is None:
            return None
        token = rate * MILLION
        return Price(
            input=self.prefill * token,
            output=self.decode * token,
            call=self.call * rate,
            context=self.context * token,
        )

    @property
    def _rate(self) -> float | None:
        """USD per second of all its accelerators."""
        return None if self.usd_per_hour is None else self.accelerators * self.usd_per_hour / HOUR


def together(attempts: Iterable[Ideal | None]) -> Ideal | None:
    """One attempt after the other; None without any, or if of one nothing is known: a part of the
    sum would look like all of it.
    """
    seconds = accelerator_seconds = 0.0
    usd: float | None = 0.0
    some = False
    for attempt in attempts:
        if attempt is None:
            return None
        some = True
        seconds += attempt.seconds
        accelerator_seconds += attempt.accelerator_seconds
        usd = None if usd is None or attempt.usd is None else usd + attempt.usd
    return Ideal(seconds, accelerator_seconds, usd) if some else None
