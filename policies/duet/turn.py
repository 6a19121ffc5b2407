"""A turn: one model writes on until it is done, its tokens are used up, or its gate fires.

A turn is one call of `/v1/completions` with the token ids of everything so far, made to the backend
that holds the beginning in its prefix cache; if that one breaks, the turn goes on at another
backend of the same model, from the token it had come to. What one turn has to tell the next is in
the `Page` and in the `Writer`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from policies.duet.page import Page
from policies.duet.watch import ALTERNATIVES, Estimate, Watch
from policies.gate.chance import later
from policies.gate.settings import GateSettings, Rule
from router.phrases import Phrase, close, next_event
from router.steps import (
    Attempt,
    Blame,
    Delta,
    Event,
    Failed,
    Fault,
    Finished,
    Open,
    Surface,
    TimedOut,
    Token,
)

TURN_SHARE = 0.5
"""Of the time that is left: a model that falls silent leaves the other time to finish."""
NUMBERED = "token_id:"
"""How vLLM writes a token's id where a text was, if it is asked to."""


@dataclass(slots=True)
class Writer:
    """One of the two models: what it can do, and where its half of the answer lies cached.

    `gate` is the reserved token of its engines' gate, None without one. `held` tokens lie in the
    prefix cache of `backend`; those in `avoid` have failed this answer; `lost` if all have.
    `alternatives` is the most that they tell per token.
    """

    model: str
    gate: int | None = None
    alternatives: int = ALTERNATIVES
    backend: str = ""
    held: int = 0
    avoid: frozenset[str] = frozenset()
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """What a model is to do: write until the answer has `until` tokens, or until `rule` fires.

    The rule runs in the engine where there is a gate, and is watched from here where there is none.
    `candidate`: say which token the model itself would have written where the gate fired.
    """

    until: int | None = None
    rule: GateSettings | None = None
    estimate: Estimate = "middle"
    candidate: bool = False


@dataclass(frozen=True, slots=True)
class Fired:
    """The gate fired before the token at the end of the answer; `candidate` is that token's id."""

    candidate: int | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """The turn's tokens are used up; the answer is not complete."""


Turned: TypeAlias = Fired | Paused | Finished | Failed


@dataclass(slots=True)
class Line:
    """An attempt, with those of its events that came while another one was listened to."""

    attempt: Attempt
    early: deque[Event] = field(default_factory=deque)

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return bool(self.early) and isinstance(self.early[-1], Finished | Failed)

    @property
    def broken(self) -> bool:
        """Whether it failed while nobody listened: from such a call nothing can be written."""
        return bool(self.early) and isinstance(self.early[-1], Failed)


def write_on(
    page: Page, writer: Writer, turn: Turn, line: Line | None = None, beside: Line | None = None
) -> Phrase[Turned]:
    """Let `writer` write. `line` is its call if that was opened before (`open_line`); what `beside`
    says meanwhile is kept for later.
    """
    start = len(page.ids)
    page.turns[writer.model] += 1
    while True:
        if page.complete:
            return (yield from _complete(page, writer))
        if line is None:
            call = _next_call(page, turn, len(page.ids) - start)
            line = yield from open_line(page, writer, call)
        else:
            call = turn
        turned = yield from _run(page, writer, call, line, beside)
        writer.held, line = len(page.prompt) + len(page.ids), None
        if isinstance(turned, Failed) and turned.fault.elsewhere:
            writer.avoid |= {turned.attempt.backend}
            writer.backend, writer.held = "", 0
            yield from page.mend(writer.model)
        used_up = turn.until is not None and len(page.ids) >= turn.until
        match turned:
            case Failed() if turned.fault.elsewhere and page.complete:
                pass
            case Failed() if turned.fault.elsewhere and used_up:
                return Paused()
            case Failed() if turned.spare:
                pass
            case Paused() if not used_up:
                pass
            case _:
                return turned


def _complete(page: Page, writer: Writer) -> Phrase[Turned]:
    """A call broke when the answer was all there: it ends in the name of one that is never sent."""
    line = yield from open_line(page, writer, Turn())
    if not line.attempt.backend:
        event = yield from next_event(line.attempt)
        assert isinstance(event, Failed)
        return event
    reason = "length" if page.stopped is None else "stop"
    yield from page.end(line.attempt, finished := Finished(line.attempt, reason, page.stopped))
    yield from close(line.attempt)
    return finished


def _next_call(page: Page, turn: Turn, written: int) -> Turn:
    """What is left of a turn of which so many tokens are written; one token inside a character."""
    if page.split:
        return Turn(until=len(page.ids) + 1)
    if turn.rule is None or written == 0:
        return turn
    since = turn.rule.since + written
    seed = later(turn.rule.seed, written) if turn.rule.rule is Rule.RANDOM else turn.rule.seed
    return replace(turn, rule=replace(turn.rule, since=since, seed=seed))


def open_line(page: Page, writer: Writer, turn: Turn, ahead: Sequence[int] = ()) -> Phrase[Line]:
    """Prepare a call for this turn, as if the tokens `ahead` stood at the end already."""
    ids = (*page.prompt, *page.ids, *ahead)
    request = page.request.asking(_body(page, writer, turn, ids), Surface.COMPLETIONS, stream=True)
    attempt: Attempt = yield Open(
        writer.model,
        request,
        avoid=writer.avoid,
        share=TURN_SHARE,
        prefer=writer.backend,
        held=writer.held,
    )
    writer.backend = attempt.backend or writer.backend
    return Line(attempt)


@dataclass(slots=True)
class Call:
    """One call of a turn as it is heard. `reserved` is the token by which its gate stops it."""

    page: Page
    turn: Turn
    attempt: Attempt
    reserved: int | None
    watch: Watch | None
    fired: Fired = field(default_factory=Fired)
    start: int = field(init=False)

    def __post_init__(self) -> None:
        self.start = len(self.page.ids)

    def delta(self, delta: Delta) -> Phrase[Turned | None]:
        """More tokens; what has come of the turn if they end it."""
        tokens = delta.tokens
        if not tokens or any(token.id is None for token in tokens):
            return (yield from self._broken("token ids", "no_token_ids"))
        if self.reserved is not None and tokens[-1].id == self.reserved:
            self.fired, tokens = Fired(_likeliest(tokens[-1])), tokens[:-1]
        try:
            kept = len(tokens) if self.watch is None else _kept(self.watch, tokens)
        except ValueError:
            return (yield from self._broken("log-probabilities", "no_logprobs"))
        if kept < len(tokens):
            if kept:
                yield from self.page.write(self.attempt, _text_of(delta, kept), tokens[:kept])
            return (yield from self._hand_over(Fired()))
        if self.turn.candidate:
            tokens = tuple(replace(token, text="", logprob=None, top=()) for token in tokens)
        if tokens:
            yield from self.page.write(self.attempt, delta.text, tokens)
        return None if self.page.stopped is None else (yield from self._stop())

    def finished(self, finished: Finished) -> Phrase[Turned]:
        """The call is over: the turn, too, or the whole answer."""
        if self.reserved is not None and finished.stop_reason == self.reserved:
            return (yield from self._hand_over(self.fired))
        until = self.turn.until
        reached = until is not None and len(self.page.ids) >= until
        if finished.reason == "length" and reached and self.page.room() != 0:
            return (yield from self._hand_over(Paused()))
        return (yield from self._end(finished))

    def _hand_over(self, turned: Fired | Paused) -> Phrase[Turned]:
        failed = yield from self.page.mend(self.attempt.model)
        if self.page.stopped is not None:
            return (yield from self._stop())
        yield from close(self.attempt)
        return failed or turned

    def _stop(self) -> Phrase[Finished]:
        """The text has come to a stop string."""
        return (yield from self._end(Finished(self.attempt, "stop", self.page.stopped)))

    def _end(self, finished: Finished) -> Phrase[Finished]:
        finished = replace(finished, reason=finished.reason or "stop")
        if self.page.split:
            ends = finished.reason == "stop" and len(self.page.ids) > self.start
            page, model = self.page, self.attempt.model
            yield from page.mend_all_but_last(model) if ends else page.mend(model)
            if page.stopped is not None:
                finished = replace(finished, reason="stop", stop_reason=page.stopped)
        yield from self.page.end(self.attempt, finished)
        yield from close(self.attempt)
        return finished

    def _broken(self, lacking: str, code: str) -> Phrase[Failed]:
        yield from close(self.attempt)
        fault = Fault(Blame.BACKEND, f"the backend sends no {lacking}", 502, code)
        return Failed(self.attempt, fault)


def _run(page: Page, writer: Writer, turn: Turn, line: Line, beside: Line | None) -> Phrase[Turned]:
    """One call, from its first token to its last."""
    watch = Watch(turn.rule, turn.estimate) if turn.rule and writer.gate is None else None
    call = Call(page, turn, line.attempt, writer.gate if turn.rule else None, watch)
    while True:
        match (yield from hear(line, beside)):
            case Delta(choice=0) as delta:
                if turned := (yield from call.delta(delta)):
                    return turned
            case Finished() as finished:
                return (yield from call.finished(finished))
            case Failed() as failed:
                return failed
            case Delta() | TimedOut():
                pass


def hear(line: Line, beside: Line | None) -> Phrase[Event]:
    """The next event of `line`; what the other one says meanwhile is put aside, on its own line."""
    if line.early:
        return line.early.popleft()
    while True:
        other = () if beside is None or beside.over else (beside.attempt,)
        event = yield from next_event(line.attempt, *other)
        if isinstance(event, TimedOut) or event.attempt == line.attempt:
            return event
        assert beside is not None
        beside.early.append(event)


def _kept(watch: Watch, tokens: Sequence[Token]) -> int:
    """How many of these tokens come before the turn's end."""
    return next((n for n, token in enumerate(tokens) if watch.stops(token)), len(tokens))


def _text_of(delta: Delta, kept: int) -> str | None:
    """The text of the first so many tokens, if the tokens' own texts make up the whole."""
    texts = [token.text for token in delta.tokens]
    return "".join(texts[:kept]) if "".join(texts) == delta.text else None


def _likeliest(token: Token) -> int | None:
    """The id of the raw distribution's best token at this position, if the backend told it."""
    best = max(token.top, key=lambda alternative: alternative.logprob, default=None)
    if best is None or not best.text.startswith(NUMBERED):
        return None
    return int(best.text.removeprefix(NUMBERED))


def _body(page: Page, writer: Writer, turn: Turn, ids: tuple[int, ...]) -> dict[str, Any]:
    asked, written = page.asked, len(ids) - len(page.prompt)
    limits = [most - written for most in (asked.room, turn.until) if most is not None]
    stop_ids, xargs = asked.stop_ids, dict(asked.xargs)
    if turn.rule is not None and writer.gate is not None:
        stop_ids = (*stop_ids, writer.gate)
        xargs.update(turn.rule.xargs())
    optional = {
        "seed": asked.seed_at(written, page.choice),
        "stop_token_ids": stop_ids or None,
        "vllm_xargs": xargs or None,
        "logprobs": max(_alternatives(page, writer, turn), default=None),
        "return_tokens_as_token_ids": turn.candidate or None,
    }
    return {
        **asked.others,
        "prompt": ids,
        "max_tokens": max(min(limits), 1) if limits else None,
        "return_token_ids": True,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _alternatives(page: Page, writer: Writer, turn: Turn) -> Iterator[int]:
    """How many alternatives per token each of those who look at them needs."""
    if page.asked.logprobs is not None:
        yield page.asked.logprobs
    if turn.candidate:
        yield 1
    if turn.rule is not None and writer.gate is None:
        yield writer.alternatives
