"""The ledger: what is known about one request on its way, written by those who act, read by all.

One per request. The engine and its calls write facts and times; the answer reads them for headers
and the closing comment; at the end it becomes one `RequestEnded`. It decides nothing, and it holds
neither the prompt nor a key, only the key's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from router.cost import baseline, delivered, priced
from router.faults import Blame, Fault
from router.fleet import Price
from router.observe import AttemptEnded, RequestEnded
from router.steps import Request, Usage


@dataclass(slots=True)
class Tally:
    """One attempt so far. Times are the loop's, in seconds."""

    model: str
    backend: str
    began: float
    answer: bool = False
    usage: Usage | None = None
    first_byte: float | None = None
    ended: float | None = None
    blame: Blame | None = None

    def told(self, now: float) -> AttemptEnded:
        """The attempt as listeners see it."""
        return AttemptEnded(
            model=self.model,
            backend=self.backend,
            blame=self.blame,
            seconds=(self.ended or now) - self.began,
            first_byte=None if self.first_byte is None else self.first_byte - self.began,
            usage=self.usage,
            answer=self.answer,
        )


@dataclass(slots=True)
class Ledger:
    """Facts about one request. `began` is when its head arrived; `waited` sums the time in which
    the gateway only waited for a backend to speak or for the client to read."""

    request: Request
    policy: str
    revision: int
    key: str | None
    began: float
    prices: Mapping[str, Price]
    baseline: str
    reason: str = ""
    detail: str = ""
    status: int = 200
    fault: Fault | None = None
    first_byte: float | None = None
    waited: float = 0.0
    tallies: list[Tally] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def attempts(self, now: float) -> tuple[AttemptEnded, ...]:
        """All attempts as they stand."""
        return tuple(tally.told(now) for tally in self.tallies)

    def cost(self, attempts: Sequence[AttemptEnded]) -> float:
        """USD spent on these attempts, unused drafts included."""
        return priced(attempts, self.prices)

    def baseline_cost(self, attempts: Sequence[AttemptEnded]) -> float:
        """USD that the same answer would have cost on the baseline model alone."""
        return baseline(attempts, self.prices[self.baseline])

    def delivered(self, now: float) -> Usage:
        """The tokens of the answer, its prompt counted once."""
        return delivered(self.attempts(now))

    @property
    def why(self) -> str:
        """The reason with its detail, for people."""
        return f"{self.reason}; {self.detail}" if self.detail else self.reason

    def written(self) -> dict[str, int]:
        """Completion tokens that the client gets, by model; 0 where nobody counted."""
        tokens: dict[str, int] = {}
        for tally in self.tallies:
            if tally.answer:
                known = tally.usage.completion if tally.usage else 0
                tokens[tally.model] = tokens.get(tally.model, 0) + known
        return tokens

    def ended(self, now: float) -> RequestEnded:
        """The request as listeners see it."""
        attempts = self.attempts(now)
        return RequestEnded(
            id=self.request.id,
            surface=self.request.surface,
            policy=self.policy,
            revision=self.revision,
            key=self.key,
            stream=self.request.stream,
            status=self.status,
            blame=self.fault.blame if self.fault else None,
            message=self.fault.message if self.fault else "",
            reason=self.reason,
            detail=self.detail,
            attempts=attempts,
            first_byte=None if self.first_byte is None else self.first_byte - self.began,
            seconds=now - self.began,
            upstream=self.waited,
            gaps=tuple(self.gaps),
            cost=self.cost(attempts),
            baseline=self.baseline_cost(attempts),
        )
