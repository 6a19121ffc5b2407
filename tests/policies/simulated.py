"""The simulated engine of the contract suite: random but lawful replies, and a watchful eye.

It knows what the real engine would refuse and what a client would have been sent. Backends keep to
what they were asked, but now and then one tells no token ids or no log-probabilities.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import thread_time
from types import MappingProxyType
from typing import Any

from router.faults import Blame, Fault
from router.fleet import Abilities, Fleet
from router.phrases import draft, serve
from router.steps import (
    Alternative,
    Attempt,
    Begin,
    Close,
    Compute,
    Delta,
    Embed,
    Emit,
    Ended,
    Event,
    Failed,
    Finished,
    Next,
    Note,
    Open,
    Parse,
    Parsed,
    Policy,
    Relay,
    Render,
    Request,
    Route,
    Score,
    Spell,
    Step,
    Steps,
    TimedOut,
    Token,
    Usage,
)
from tests.fleets import delta, fleet

MOST_STEPS = 10_000
"""Far more than any policy asks for an answer of `MOST_PIECES` pieces."""
MOST_PIECES = 8
MOST_RETRIES = 3
"""Spares that a pool offers in one conversation: pools and retry budgets are finite."""
TEXTS = ("7", "It is ", '{"answer": 7}', "yes", "no", "", "naïve 🚲\n")
FAULTS = (Blame.CLIENT, Blame.BUSY, Blame.BACKEND, Blame.GATEWAY)
STEPS = (
    Open,
    Next,
    Relay,
    Emit,
    Close,
    Compute,
    Render,
    Spell,
    Parse,
    Embed,
    Score,
    Route,
    Begin,
    Note,
)
BACKENDS = ("a:1", "b:1", "c:1")
PROMPT = (1, 2, 3)
"""The token ids that every prompt is rendered to."""
GATE = 99
"""The token on which an engine's gate stops."""
SPELLED = ("7", "It is 7", "na\ufffd", "")


@dataclass(slots=True)
class Known:
    """What the engine knows of an attempt: its body, what came of it, whether its gate fired."""

    asked: dict[str, Any] = field(default_factory=dict)
    said: int = 0
    choices: set[int] = field(default_factory=set)
    tokens: int = 0
    fired: bool = False
    emitted: bool = False
    ended: Ended | None = None
    closed: bool = False
    raced: bool = False

    @property
    def heard(self) -> bool:
        """Whether something of it can be passed on late, when it may be closed."""
        return not isinstance(self.ended, Failed) and (self.said > 0 or self.ended is not None)

    @property
    def running(self) -> bool:
        return self.ended is None and not self.closed


def rewording(model: str, asked: Request) -> Steps:
    """What another policy may do: it writes an answer of its own, piece by piece."""
    drafted = yield from draft(model, asked)
    if isinstance(drafted, Failed):
        return drafted
    yield Emit(drafted.attempt, "It is ")
    yield Emit(drafted.attempt, "7")
    return drafted.finished


@dataclass(slots=True)
class Conversation:
    """One request answered by `policy`, with the replies that `rng` draws.

    `fails` says of the k-th reply that can fail whether it must (None: as it is drawn).
    """

    policy: Policy
    asked: Request
    rng: random.Random
    fails: Callable[[int], Failed | None] | None = None
    transcript: list[tuple[Step, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    chances: int = 0
    _known: dict[Attempt, Known] = field(default_factory=dict)
    _given: Ended | None = None
    _emitted: Counter[int] = field(default_factory=Counter)
    _finished: set[int] = field(default_factory=set)
    _spares: int = MOST_RETRIES

    def run(self) -> Ended:
        """Drive it to its end, and hold every step against the law."""
        steps, reply = self.policy.route(self.asked, any_fleet(self.rng)), None
        for _ in range(MOST_STEPS):
            began = thread_time()
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                return self._over(stop.value)
            finally:
                self.times.append(thread_time() - began)
            assert isinstance(step, STEPS), f"{step!r} is not in the vocabulary"
            reply = self._reply(step)
            told = "steps" if isinstance(step, Begin) else repr(reply)  # whose repr is an address
            self.transcript.append((step, told))
        raise AssertionError(f"no end after {MOST_STEPS} steps")

    def _over(self, ended: Ended) -> Ended:
        assert isinstance(ended, Finished | Failed), f"it returned {ended!r}"
        if self._given is not None:
            assert ended == self._given, "it ended otherwise than what the client was given"
        elif not self._emitted:
            assert isinstance(ended, Failed), "it finished, and the client got nothing"
        elif isinstance(ended, Failed):
            assert ended.sent, "it does not own up to what it emitted"
        left = [held for held, known in self._known.items() if held.backend and known.running]
        assert not left, f"still running: {left}"
        return ended

    def _reply(self, step: Step) -> Any:  # noqa: C901, PLR0911  # a reply per kind of step
        match step:
            case Open():
                return self._open(step)
            case Next():
                return self._next(step)
            case Relay():
                return self._relay(step)
            case Route():
                return self._routed(Attempt(-99, step.target, "r:1"))
            case Begin():
                return (serve if self.rng.random() < 0.5 else rewording)("small", step.request)
            case Emit():
                self._emit(step)
            case Close():
                self._known[step.attempt].closed = True
            case Note():
                assert step.reason in type(self.policy).reasons, f"{step.reason} was not declared"
            case Compute():
                return step.function(*step.arguments)
            case Render() | Spell() | Parse() | Embed() | Score():
                return self._failure(Attempt(-98, step.model, "")) or self._told(step)
        return None

    def _told(self, step: Render | Spell | Parse | Embed | Score) -> Any:
        match step:
            case Embed():
                assert step.texts, "it asks where nothing lies"
                return tuple((1.0, 0.5) for _ in step.texts)
            case Score():
                assert step.texts, "it asks what nothing is worth"
                return tuple(self.rng.uniform(-2, 2) for _ in step.texts)
            case Render():
                return PROMPT
            case Spell():
                assert step.tokens, "it asks for the text of nothing"
                return self.rng.choice(SPELLED)
            case Parse():
                assert step.prompt == PROMPT, "the prompt is not what it was rendered to"
                assert step.tokens, "it asks what nothing means"
                return Parsed({"role": "assistant", "content": "7"}, "stop")

    def _alive(self, attempt: Attempt) -> bool:
        known = self._known[attempt]
        return not known.closed and not isinstance(known.ended, Failed)

    def _emit(self, step: Emit) -> None:
        assert self._given is None, "it emits into an answer that was relayed"
        assert step.attempt.backend, "it emits from an attempt that found no backend"
        heard = self._known[step.attempt].heard
        assert heard or self._alive(step.attempt), "it emits from an attempt that is over"
        assert step.choice not in self._finished, "it emits into a choice that has ended"
        assert step.choice < (self.asked.body.get("n") or 1), "nobody asked for this choice"
        self._known[step.attempt].emitted = True
        self._emitted[step.choice] += len(step.tokens)
        most = self.asked.body.get("max_tokens", MOST_STEPS)
        assert self._emitted[step.choice] <= most, "it emits more tokens than were asked for"
        if step.finish is not None:
            self._finished.add(step.choice)

    def _failure(self, attempt: Attempt) -> Failed | None:
        """The failure that comes now, if one does: `fails` decides, or one reply in four."""
        self.chances += 1
        if self.fails:
            failed = self.fails(self.chances - 1)
        elif self.rng.random() < 0.25:
            failed = broken(self.rng.choice(FAULTS), sent=self.rng.random() < 0.5)
        else:
            failed = None
        if failed is None:
            return None
        emitted = attempt in self._known and self._known[attempt].emitted
        sent = failed.sent or emitted
        spare = failed.fault.elsewhere and (not sent or emitted) and self._spares > 0
        spare = spare and attempt.number >= 0 and self.rng.random() < 0.5
        self._spares -= spare
        return Failed(attempt, failed.fault, sent, spare)

    def _open(self, step: Open) -> Attempt:
        assert step.model in ("small", "large", "other"), f"{step.model} is not in its settings"
        assert step.prefer in ("", *BACKENDS), f"{step.prefer} is no backend"
        number = len(self._known)
        names = [name for name in BACKENDS if name not in step.avoid]
        picked = self.rng.choice(names) if names and self.rng.random() < 0.9 else ""
        if picked and step.prefer in names and self.rng.random() < 0.9:
            picked = step.prefer
        attempt = Attempt(number if picked else -1 - number, step.model, picked)
        body = {**step.request.body, **step.changes}
        self._known[attempt] = Known(body)
        if body.get("return_token_ids"):
            ids = body["prompt"]
            assert tuple(ids[:3]) == PROMPT, "the prompt is not what it was rendered to"
            assert all(isinstance(token, int) for token in ids)
            assert GATE not in ids, "it goes on from the reserved token"
            assert 0 <= step.held <= len(ids), "more is held than was written"
        return attempt

    def _next(self, step: Next) -> Event:
        assert step.attempts, "it waits for nobody"
        for attempt in step.attempts:
            assert self._alive(attempt), f"it waits for an attempt that is over: {attempt}"
            if not attempt.backend:
                return self._unplaced(attempt)
        raced = len(step.attempts) > 1 or step.timeout is not None
        for attempt in step.attempts:
            self._known[attempt].raced |= raced
        if step.timeout is not None and self.rng.random() < 0.4:
            return TimedOut()
        heard = self.rng.choice(step.attempts)
        self._known[heard].raced = False
        return self._event(heard)

    def _event(self, attempt: Attempt) -> Event:
        known = self._known[attempt]
        if known.ended is None and (failed := self._failure(attempt)):
            known.ended = replace(failed, sent=known.emitted)
        elif known.ended is None and known.asked.get("return_token_ids"):
            return self._token_event(attempt, known)
        elif known.ended is None and known.said < MOST_PIECES and self.rng.random() < 0.7:
            known.said += 1
            values = [-self.rng.random()] if self.rng.random() < 0.7 else []
            choice = self.rng.choice((0, 0, 1))
            known.choices.add(choice)
            return delta(attempt, self.rng.choice(TEXTS), *values, choice=choice)
        elif known.ended is None:
            reason = self.rng.choice(("stop", "length", None))
            known.ended = Finished(attempt, reason, None, self.rng.choice((None, Usage(3, 4))))
        return known.ended

    def _token_event(self, attempt: Attempt, known: Known) -> Event:
        """What a lawful engine says to a call with token ids, and now and then an unlawful one."""
        most = known.asked["max_tokens"]
        limit = self.asked.body.get("max_tokens")
        if limit is not None:
            written = len(known.asked["prompt"]) - len(PROMPT)
            assert most is not None, "nothing limits this call"
            assert written + most <= limit, "it asks for more than the client does"
        room = MOST_PIECES - known.tokens if most is None else most - known.tokens
        if known.fired or room <= 0 or self.rng.random() < 0.2:
            reason = "stop" if known.fired or room > 0 else "length"
            stop = GATE if known.fired else None
            known.ended = Finished(attempt, reason, stop, Usage(3, known.tokens))
            return known.ended
        count = self.rng.randint(1, min(room, 3))
        tokens = [self._token(known) for _ in range(count)]
        if GATE in known.asked.get("stop_token_ids", ()) and self.rng.random() < 0.4:
            known.fired = True
            tokens[-1] = replace(tokens[-1], id=GATE, text="")
        known.tokens += count
        shown = self.rng.random() < 0.7
        return Delta(attempt, "".join(token.text for token in tokens) if shown else "", (*tokens,))

    def _token(self, known: Known) -> Token:
        text, value = self.rng.choice(TEXTS), -self.rng.random()
        top = (Alternative(f"token_id:{self.rng.randint(10, 20)}", value),)
        told = "logprobs" in known.asked and self.rng.random() < 0.95
        identified = self.rng.random() < 0.98
        number = self.rng.randint(10, 20) if identified else None
        return Token(text, number, value, top) if told else Token("", number)

    def _unplaced(self, attempt: Attempt) -> Failed:
        self._known[attempt].ended = failed = Failed(attempt, broken(Blame.BACKEND).fault)
        return failed

    def _relay(self, step: Relay) -> Ended:
        attempt = step.attempt
        assert self._alive(attempt), f"it relays an attempt that is over: {attempt}"
        assert self._given is None, "it relays into an answer that was given"
        assert not self._emitted, "it relays into an answer that was emitted"
        known = self._known[attempt]
        assert not known.raced, "it relays an attempt that it races and has not heard"
        if not attempt.backend:
            return self._unplaced(attempt)
        if step.choice is not None:
            assert known.ended is not None, "it chooses among what it has not heard"
            assert step.choice in {0, *known.choices}, "it relays a choice that there is not"
            assert all(self._known[other].ended for other in step.beside)
        if known.ended is None:
            known.ended = self._failure(attempt) or Finished(attempt, "stop")
        return self._give(known.ended)

    def _routed(self, attempt: Attempt) -> Ended:
        assert self._given is None, "it hands on a request that was answered"
        assert not self._emitted, "it hands on a request that it began to answer"
        return self._give(self._failure(attempt) or Finished(attempt, "stop"))

    def _give(self, ended: Ended) -> Ended:
        if isinstance(ended, Finished) or ended.sent:
            self._given = ended
        return ended


def any_fleet(rng: random.Random) -> Fleet:
    """Models of which more or less is known, and which can do more or less."""
    views = dict(fleet("small", "large", "other").models)
    for name, view in views.items():
        if rng.random() < 0.8:
            able = Abilities(
                gate=rng.choice((GATE, GATE, None)),
                token_ids=rng.random() < 0.95,
                derender=rng.random() < 0.8,
                max_logprobs=rng.choice((None, 5, 20)),
            )
            views[name] = replace(view, abilities=able)
    return Fleet(MappingProxyType(views))


def broken(blame: Blame, *, sent: bool = False) -> Failed:
    return Failed(Attempt(0, "", ""), Fault(blame, f"{blame} broke it"), sent)


def conversation(policy: Policy, asked: Request, seed: int) -> Conversation:
    return Conversation(policy, asked, random.Random(seed))
