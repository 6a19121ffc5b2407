"""The ledger: what is known about one request on its way, written by those who act, read by all.

All times are `time.monotonic`'s: an event loop's own clock may tick in milliseconds only (uvloop's
does), and the gateway's share of a request is a fraction of one.

One per request. The engine and its calls write facts and times; the answer reads them for headers
and the closing comment; at the end it becomes one `RequestEnded`. It decides nothing, and it holds
neither the prompt nor a key, only the key's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from router.cost import cost, delivered
from router.faults import Blame, Fault
from router.fleet import Price
from router.idealised import Ideal, Idealised, together
from router.observe import AttemptEnded, Queued, RequestEnded
from router.steps import Request, Surface, Usage
from router.trace import Trace

BYTES_PER_TOKEN = 4
"""Of a prompt, for an estimate: English in the tokenizers of today's open models, JSON included."""


@dataclass(slots=True)
class Tally:
    """One attempt so far. Times are monotonic, in seconds; `sent` counts the request's bytes,
    `pieces` the events of a stream. `prompt` counts the prompt's tokens where they were sent as
    such; of them `held` were in the backend's prefix cache by this request's own doing. `emitted`
    counts the tokens that a policy passed to the client one by one; None if it did not. `choices`
    is how many answers were asked for, `idealised` how long the model takes alone, if it is known.
    `span` is its own in the request's trace, 0 if it has none.
    """

    model: str
    backend: str
    began: float
    price: Price
    sent: int
    surface: Surface = Surface.CHAT
    span: int = 0
    pieces: int = 0
    answer: bool = False
    usage: Usage | None = None
    first_byte: float | None = None
    ended: float | None = None
    blame: Blame | None = None
    prompt: int | None = None
    held: int = 0
    emitted: int | None = None
    choices: int = 1
    idealised: Idealised | None = None

    def emits(self, tokens: int) -> None:
        """So many more of its tokens are the client's."""
        self.answer = True
        if tokens:
            self.emitted = (self.emitted or 0) + tokens

    @property
    def cost(self) -> float:
        """USD, as far as the backend has stated what it did."""
        return 0.0 if self.usage is None else self._cost(self.usage)

    def _cost(self, usage: Usage) -> float:
        return cost(usage, self.price, self.held, self.choices)

    def ideal(self, usage: Usage | None) -> Ideal | None:
        """What these tokens take alone, None where that is not known."""
        if usage is None or self.idealised is None:
            return None
        return self.idealised.ideal(usage, self.held, self.choices)

    def told(self, now: float, request_began: float) -> AttemptEnded:
        """The attempt as listeners see it."""
        usage = self.usage
        if estimated := usage is None and self.pieces > 0 and self.blame is not None:
            usage = Usage(self.prompt or self.sent // BYTES_PER_TOKEN, self.pieces)
        return AttemptEnded(
            model=self.model,
            backend=self.backend,
            blame=self.blame,
            seconds=(self.ended or now) - self.began,
            first_byte=None if self.first_byte is None else self.first_byte - self.began,
            usage=usage,
            answer=self.answer,
            cost=0.0 if usage is None else self._cost(usage),
            estimated=estimated,
            emitted=self.emitted,
            held=self.held,
            choices=self.choices,
            surface=self.surface,
            began=self.began - request_began,
            span=self.span,
        )


def told(reason: str, detail: str) -> str:
    """A reason with its detail, for people."""
    return f"{reason}; {detail}" if detail else reason


def _began(span: tuple[str, float, float]) -> float:
    return span[1]


def _completed(tally: Tally) -> int:
    return tally.usage.completion if tally.usage else 0


@dataclass(slots=True)
class Ledger:
    """Facts about one request. `began` is when its head arrived; `waited` sums the time in which
    the gateway only waited for a backend to speak or for the client to read. `prompt` counts the
    prompt's tokens once a policy has sent it as token ids. `reason` and `detail` are what was said
    last, `before` what those said who had handed the request on; `cited` what the answer is made
    from, `sent` the share of the client's prompt that this leaves; `queued` the waits for a place;
    `beside` numbers the attempts all of whose tokens the client's usage counts; `asked` says which
    models were asked something that is no attempt, from when to when.
    """

    request: Request
    policy: str
    revision: int
    key: str | None
    began: float
    baseline: Price
    reason: str = ""
    detail: str = ""
    before: tuple[str, ...] = ()
    cited: tuple[Mapping[str, Any], ...] = ()
    sent: float = 1.0
    status: int = 200
    fault: Fault | None = None
    first_byte: float | None = None
    waited: float = 0.0
    prompt: int | None = None
    trace: Trace | None = None
    tallies: list[Tally] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    queued: list[Queued] = field(default_factory=list)
    beside: set[int] = field(default_factory=set)
    asked: list[tuple[str, float, float]] = field(default_factory=list)

    def attempts(self, now: float) -> tuple[AttemptEnded, ...]:
        """All attempts as they stand."""
        return tuple(tally.told(now, self.began) for tally in self.tallies)

    @property
    def spent(self) -> float:
        """USD for everything that was run so far, unused drafts included."""
        return sum(tally.cost for tally in self.tallies)

    def delivered(self, now: float) -> Usage:
        """The tokens of the answer, its prompt counted once."""
        known = delivered(self.attempts(now))
        return known if self.prompt is None else replace(known, prompt=self.prompt)

    def counted(self, now: float) -> Usage:
        """What the client's usage says of a composed answer: its tokens, and those thrown away of
        the attempts `beside`.
        """
        known, more = self.delivered(now), 0
        for number in self.beside:
            told = self.tallies[number].told(now, self.began)
            more += max(told.usage.completion - told.written, 0) if told.usage else 0
        return replace(known, completion=known.completion + more) if more else known

    def baseline_cost(self, now: float) -> float:
        """USD that the same answer would have cost on the baseline model alone, which would have
        been sent the client's whole prompt.
        """
        usage = self.delivered(now)
        return cost(replace(usage, prompt=round(usage.prompt / self.sent)), self.baseline)

    def waits(self, now: float) -> dict[str, float]:
        """Seconds in which something of each model was waited for; at the same time counts once."""
        spans = [(t.model, t.began, t.ended or now) for t in self.tallies]
        waits: dict[str, float] = {}
        until: dict[str, float] = {}
        for model, began, ended in sorted([*spans, *self.asked], key=_began):
            fresh = max(ended - max(began, until.get(model, began)), 0.0)
            waits[model] = waits.get(model, 0.0) + fresh
            until[model] = max(ended, until.get(model, ended))
        return waits

    @property
    def said(self) -> tuple[str, ...]:
        """The reason with its detail, for people, after those of the policies that handed on."""
        return (*self.before, told(self.reason, self.detail)) if self.reason else self.before

    @property
    def why(self) -> str:
        """The same in one line."""
        return " > ".join(self.said)

    def written(self) -> dict[str, int]:
        """Completion tokens that the client gets, by model; 0 where nobody counted."""
        tokens: dict[str, int] = {}
        for tally in self.tallies:
            if tally.answer:
                known = tally.emitted if tally.emitted is not None else _completed(tally)
                tokens[tally.model] = tokens.get(tally.model, 0) + known
        return tokens

    def ended(self, now: float) -> RequestEnded:
        """The request as listeners see it."""
        attempts = self.attempts(now)
        for tally, attempt in zip(self.tallies, attempts, strict=True):
            attempt.ideal = tally.ideal(attempt.usage)
        return RequestEnded(
            id=self.request.id,
            surface=self.request.surface,
            policy=self.policy,
            revision=self.revision,
            key=self.key,
            stream=self.request.stream,
            status=self.status,
            blame=self.fault.blame if self.fault else None,
            message=self.fault.summary if self.fault else "",
            reason=self.reason,
            detail=self.detail,
            said=self.said,
            attempts=attempts,
            first_byte=None if self.first_byte is None else self.first_byte - self.began,
            seconds=now - self.began,
            upstream=self.waited,
            gaps=tuple(self.gaps),
            cost=sum(attempt.cost for attempt in attempts),
            ideal=together(one.ideal for one in attempts if one.usage is not None),
            baseline=self.baseline_cost(now),
            delivered=self.delivered(now),
            trace=self.trace,
            queued=tuple(self.queued),
        )
