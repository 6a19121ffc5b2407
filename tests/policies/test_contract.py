"""The contract of every policy, held against each kind in the table, in several settings.

A simulated engine gives random but lawful replies, drawn from a seed, and watches: it knows what
the engine would refuse, and what a client would have been sent. The settings tried come from the
policy's own test, `tests/policies/test_KIND.py`: `EXAMPLES` are blocks that must work, `NONSENSE`
are blocks that must be refused. So a new policy costs its file, that test, and its line in the
table, and nothing here.
"""

from __future__ import annotations

import dataclasses
import importlib
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from time import thread_time
from types import MappingProxyType
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st

from policies import TABLE
from router.faults import Blame, Fault
from router.fleet import Abilities, Fleet
from router.references import build_policy
from router.steps import (
    Alternative,
    Attempt,
    Close,
    Compute,
    Delta,
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
    Spell,
    Step,
    Surface,
    TimedOut,
    Token,
    Usage,
)
from tests.fleets import delta, fleet, request

MOST_STEPS = 10_000
"""Far more than any policy asks for an answer of `MOST_PIECES` pieces."""
MOST_PIECES = 8
MOST_RETRIES = 3
"""Spares that a pool offers in one conversation: pools and retry budgets are finite."""
LONGEST_STEP = 1e-3
"""Seconds of CPU time between two steps, in the median: what may pass on an event loop."""
TEXTS = ("7", "It is ", '{"answer": 7}', "yes", "no", "", "naïve 🚲\n")
FAULTS = (Blame.CLIENT, Blame.BUSY, Blame.BACKEND, Blame.GATEWAY)
STEPS = (Open, Next, Relay, Emit, Close, Compute, Render, Spell, Parse, Route, Note)
BACKENDS = ("a:1", "b:1", "c:1")
PROMPT = (1, 2, 3)
"""The token ids that every prompt is rendered to."""
GATE = 99
"""The token on which an engine's gate stops."""
SPELLED = ("7", "It is 7", "na\ufffd", "")


def settings(kind: str, name: str) -> tuple[dict[str, Any], ...]:
    tests = importlib.import_module(f"tests.policies.test_{kind}")
    blocks: tuple[dict[str, Any], ...] = getattr(tests, name)
    assert blocks, f"tests/policies/test_{kind}.py has no {name}"
    return blocks


def cases(name: str) -> list[Any]:
    return [
        pytest.param(kind, block, id=f"{kind}-{number}")
        for kind in TABLE
        for number, block in enumerate(settings(kind, name))
    ]


def policy_of(kind: str, block: dict[str, Any]) -> Policy:
    policy, problems = build_policy({"use": kind, **block}, TABLE)
    assert policy, problems
    return policy


every_policy = pytest.mark.parametrize(("kind", "block"), cases("EXAMPLES"))
requests = pytest.mark.parametrize(
    "asked",
    [
        request(session="ann", body={"messages": [{"role": "user", "content": "?"}]}),
        request(body={"messages": [{"role": "user", "content": "?"}], "stream": True}, draw=0.95),
        request(Surface.COMPLETIONS, body={"prompt": "?"}),
        request(body={"messages": [], "n": 2, "stop": "yes", "max_tokens": 6, "logprobs": True}),
        request(Surface.MESSAGES, body={"messages": [], "max_tokens": 1}, draw=0.5),
        request(Surface.EMBEDDINGS, body={"input": "?"}),
    ],
    ids=["chat", "stream", "completion", "choices", "messages", "embedding"],
)


# --------------------------------------------------------------------------- the simulated engine


@dataclass(slots=True)
class Known:
    """What the engine knows of an attempt: its body, what came of it, whether its gate fired."""

    asked: dict[str, Any] = field(default_factory=dict)
    said: int = 0
    tokens: int = 0
    fired: bool = False
    emitted: bool = False
    ended: Ended | None = None
    closed: bool = False
    raced: bool = False

    @property
    def running(self) -> bool:
        return self.ended is None and not self.closed


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
            self.transcript.append((step, repr(reply)))
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

    def _reply(self, step: Step) -> Any:  # noqa: PLR0911  # a reply per kind of step
        match step:
            case Open():
                return self._open(step)
            case Next():
                return self._next(step)
            case Relay():
                return self._relay(step.attempt)
            case Route():
                return self._routed(Attempt(-99, step.target, "r:1"))
            case Emit():
                self._emit(step)
            case Close():
                self._known[step.attempt].closed = True
            case Note():
                assert step.reason in type(self.policy).reasons, f"{step.reason} was not declared"
            case Compute():
                return step.function(*step.arguments)
            case Render() | Spell() | Parse():
                return self._failure(Attempt(-98, step.model, "")) or self._told(step)
        return None

    def _told(self, step: Render | Spell | Parse) -> Any:
        match step:
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
        assert self._alive(step.attempt), "it emits from an attempt that is over"
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
            return delta(
                attempt, self.rng.choice(TEXTS), *values, choice=self.rng.choice((0, 0, 1))
            )
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

    def _relay(self, attempt: Attempt) -> Ended:
        assert self._alive(attempt), f"it relays an attempt that is over: {attempt}"
        assert self._given is None, "it relays into an answer that was given"
        assert not self._emitted, "it relays into an answer that was emitted"
        known = self._known[attempt]
        assert not known.raced, "it relays an attempt that it races and has not heard"
        if not attempt.backend:
            return self._unplaced(attempt)
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


# ----------------------------------------------------------------------------------- the contract


@every_policy
@requests
@limited(max_examples=20)  # of each of some seventy pairs
@given(seed=st.integers(0, 1 << 32))
def test_it_keeps_the_law_whatever_it_hears(
    kind: str, block: dict[str, Any], asked: Request, seed: int
) -> None:
    conversation(policy_of(kind, block), asked, seed).run()


@every_policy
@requests
def test_it_survives_a_failure_at_every_point(
    kind: str, block: dict[str, Any], asked: Request
) -> None:
    policy = policy_of(kind, block)
    for seed in range(2):
        for blame in FAULTS:
            for sent in (False, True):
                for once in (False, True):
                    _fail_at_every_point(policy, asked, seed, broken(blame, sent=sent), once=once)


def _fail_at_every_point(
    policy: Policy, asked: Request, seed: int, failed: Failed, *, once: bool
) -> None:
    """The k-th reply fails, alone or with all that follow, for every k that is reached."""
    at, reached = 0, 1
    while at < reached:
        played = Conversation(policy, asked, random.Random(seed))
        played.fails = lambda k, at=at: failed if k == at or (not once and k > at) else None
        played.run()
        reached, at = played.chances, at + 1


@every_policy
@requests
def test_the_same_replies_give_the_same_steps(
    kind: str, block: dict[str, Any], asked: Request
) -> None:
    for seed in range(5):
        first, second = (
            conversation(policy_of(kind, block), asked, seed) for _ in ("built", "built again")
        )
        assert (first.run(), first.transcript) == (second.run(), second.transcript)


@every_policy
def test_it_never_blocks_between_two_steps(kind: str, block: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "What is 3 + 4? " * 2000}] * 10
    asked = request(body={"messages": messages}, session="ann")
    policy = policy_of(kind, block)
    policy_times: list[list[float]] = []
    for _ in range(15):
        played = conversation(policy, asked, 7)
        played.run()
        policy_times.append(played.times)
    slowest = max(median(times) for times in zip(*policy_times, strict=True))
    assert slowest < LONGEST_STEP, f"{slowest * 1e3:.2f} ms of CPU time between two steps"


@every_policy
def test_it_is_an_immutable_value(kind: str, block: dict[str, Any]) -> None:
    policy = policy_of(kind, block)
    assert policy == policy_of(kind, block)
    for setting in block:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(policy, setting, None)


@pytest.mark.parametrize(("kind", "block"), cases("NONSENSE"))
def test_nonsense_in_its_settings_is_refused_with_a_reason(
    kind: str, block: dict[str, Any]
) -> None:
    policy, problems = build_policy({"use": kind, **block}, TABLE)
    assert policy is None
    assert all(reason for _, reason in problems)


@pytest.mark.parametrize("kind", TABLE)
def test_an_unknown_setting_is_refused(kind: str) -> None:
    for block in settings(kind, "EXAMPLES"):
        policy, problems = build_policy({"use": kind, **block, "no_such_setting": 1}, TABLE)
        assert policy is None
        assert any("there is no such setting" in reason for _, reason in problems)


@pytest.mark.parametrize("kind", TABLE)
def test_what_it_is_stands_in_its_docstrings(kind: str) -> None:
    """They are its documentation: the class says what it does."""
    said = TABLE[kind].__doc__ or ""
    assert said
    assert not said.startswith(f"{TABLE[kind].__name__}("), "that is generated"
    assert all(word.isidentifier() for word in TABLE[kind].reasons)


# ------------------------------------------------------------------------------ it can find fault


def unlawful(*steps: Callable[[Attempt, Request], Step]) -> Policy:
    class Unlawful:
        reasons: ClassVar[tuple[str, ...]] = ()

        def route(self, asked: Request, _: Any) -> Any:
            attempt = yield Open("small", asked)
            for step in steps:
                yield step(attempt, asked)
            return Failed(attempt, broken(Blame.BACKEND).fault)

    return Unlawful()


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        (unlawful(), "still running"),
        (unlawful(lambda *_: Note("because")), "because was not declared"),
        (unlawful(lambda *_: Next(())), "it waits for nobody"),
        (
            unlawful(lambda a, _: Close(a), lambda a, _: Relay(a)),
            "it relays an attempt that is over",
        ),
        (unlawful(lambda a, _: Next((a,), 0.1), lambda a, _: Relay(a)), "it races|is over"),
        (unlawful(lambda a, _: Relay(a)), "it ended otherwise|returned"),
        (unlawful(lambda a, _: Emit(a, "7"), lambda a, _: Relay(a)), "was emitted|is over"),
        (unlawful(lambda a, _: Emit(a, "7", choice=1)), "nobody asked for this choice"),
        (
            unlawful(
                lambda a, _: Emit(a, "", finish=Finished(a)),
                lambda a, _: Emit(a, "7"),
                lambda a, _: Close(a),
            ),
            "into a choice that has ended",
        ),
        (unlawful(lambda a, _: Emit(a, "7"), lambda a, _: Close(a)), "does not own up"),
        (unlawful(lambda _, r: Spell("small", r, ())), "the text of nothing"),
        (unlawful(lambda _, r: Open("small", r, prefer="z:9")), "z:9 is no backend"),
        (
            unlawful(
                lambda _, r: Open("small", r, {"return_token_ids": True, "prompt": (1, 2, 9)})
            ),
            "not what it was rendered to",
        ),
        (unlawful(lambda _, r: Route("large", r), lambda a, _: Relay(a)), "was given|is over"),
        (unlawful(lambda *_: 5), "not in the vocabulary"),  # type: ignore[arg-type]
    ],
)
def test_the_simulated_engine_finds_what_is_unlawful(policy: Policy, complaint: str) -> None:
    """With some seed or other: not every conversation gets to the fault."""
    found = []
    for seed in range(50):
        try:
            conversation(policy, request(), seed).run()
        except AssertionError as error:
            found.append(str(error))
    assert found
    assert any(re.search(complaint, text) for text in found), found
