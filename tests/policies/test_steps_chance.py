"""Steps under chance: both models would write the same text, so the answer must be that text.

However it is cut into tokens and events, whatever is looked at, graded, broken and taken over on
the way: nothing may be lost, doubled or put in the wrong order. A backend whose chat template
strips white space must make no difference.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.steps import Grade, Stepwise
from router.faults import Blame, Fault
from router.steps import (
    Alternative,
    Attempt,
    Close,
    Delta,
    Emit,
    Ended,
    Event,
    Failed,
    Finished,
    Next,
    Note,
    Open,
    Render,
    Route,
    Spell,
    Step,
    Surface,
    Token,
)
from tests.fleets import fleet, request

MOST_STEPS = 5_000
"""Far more than the texts here take."""
LINES = ["Three", "and four", "naïve 🚲", "x = 3 + 4", "7", "So the", "end"]
SPECIAL = "<|end|>"
"""A token that has no part in the text."""
SURE, UNSURE = (0.0,), (-1.0, -1.0, -1.0, -1.0)

texts = st.lists(st.sampled_from(LINES), min_size=1, max_size=8)
chances = st.integers(0, 1 << 32)


@dataclass(slots=True)
class Stage:
    """Two models that both write `text`, and the client's side of the answer.

    `trims`: their chat template strips the white space at the end of what they are to continue.
    Chances: `breaks` that an event is a failure, `halves` that a token's text comes late, and
    `specials` that a token without any follows.
    """

    text: str
    rng: random.Random
    trims: bool = False
    breaks: float = 0.0
    halves: float = 0.0
    specials: float = 0.0
    shown: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: Finished | None = None
    routed: bool = False
    calls: dict[Attempt, list[Event]] = field(default_factory=dict)
    ended: set[Attempt] = field(default_factory=set)

    def run(self, policy: Stepwise, **body: Any) -> Ended:
        """The whole conversation."""
        surface = Surface.COMPLETIONS if "prompt" in body else Surface.CHAT
        steps, reply = policy.route(request(surface, body=body), fleet()), None
        for _ in range(MOST_STEPS):
            try:
                reply = self._reply(steps.send(reply))
            except StopIteration as stop:
                assert set(self.calls) <= self.ended, "a call is left open"
                ended: Ended = stop.value
                return ended
        raise AssertionError("no end")

    def _reply(self, step: Step) -> Any:
        match step:
            case Open():
                return self._open(step)
            case Next(attempts=(attempt,)):
                return self._next(attempt)
            case Emit():
                assert self.finish is None, "it writes on behind the end"
                assert step.attempt not in self.ended, "it emits from a call that is over"
                self.shown += step.text
                self.tokens += step.tokens
                self.finish = step.finish
            case Close():
                self.ended.add(step.attempt)
            case Route():
                assert not self.shown
                self.shown, self.routed = self.text, True
                return Finished(Attempt(-1, step.target, "r:1"), "stop")
            case Render():
                return (1, 2, 3)
            case Spell():
                return "?"
            case Note():
                pass
            case _:
                raise AssertionError(step)
        return None

    def _open(self, step: Open) -> Attempt:
        attempt = Attempt(len(self.calls), step.model, f"b:{len(step.avoid)}")
        body = step.request.body
        self.calls[attempt] = (
            self._written(attempt, body) if step.request.stream else self._mark(attempt)
        )
        return attempt

    def _mark(self, attempt: Attempt) -> list[Event]:
        return [Delta(attempt, str(self.rng.randint(0, 9))), Finished(attempt, "length")]

    def _written(self, attempt: Attempt, body: Any) -> list[Event]:
        """What this model writes behind the text that it is shown, cut at random."""
        if "prompt" in body:
            seen = body["prompt"].removeprefix("?")
        else:
            seen = body["messages"][-1]["content"] if body.get("continue_final_message") else ""
        assert self.text.startswith(seen), f"it is shown {seen!r}"
        if self.trims:
            seen = seen.rstrip()
        tokens = list(self._tokens(self.text[len(seen) :]))
        most = body.get("max_tokens")
        reason = "length" if most is not None and most < len(tokens) else "stop"
        return [*self._events(attempt, tokens[:most]), Finished(attempt, reason)]

    def _tokens(self, text: str) -> Iterator[Token]:
        while text:
            size = self.rng.choice((1, 1, 2, 3, 5))
            values = self.rng.choice((SURE, UNSURE))
            top = tuple(Alternative(f"{n}", value) for n, value in enumerate(values))
            yield Token(text[:size], None, values[0], top)
            text = text[size:]
            if self.rng.random() < self.specials:
                yield Token(SPECIAL, None, values[0], top)

    def _events(self, attempt: Attempt, tokens: list[Token]) -> Iterator[Event]:
        """Several tokens at once, or a text that comes one event after its tokens."""
        late = ""
        while tokens:
            size = self.rng.choice((1, 1, 1, 2, 4))
            group, tokens = tuple(tokens[:size]), tokens[size:]
            text = late + "".join(token.text for token in group).replace(SPECIAL, "")
            late = ""
            if tokens and self.rng.random() < self.halves:
                text, late = "", text
                group = tuple(Token("�", None, t.logprob, t.top) for t in group)
            yield Delta(attempt, text, group)

    def _next(self, attempt: Attempt) -> Event:
        assert attempt not in self.ended, "it waits for a call that is over"
        if self.rng.random() < self.breaks:
            self.ended.add(attempt)
            fault = Fault(self.rng.choice((Blame.BACKEND, Blame.BUSY)), "broke")
            return Failed(attempt, fault, spare=self.rng.random() < 0.8)
        return self.calls[attempt].pop(0)


def policies(separator: str) -> list[Stepwise]:
    plain = Stepwise(small="small", large="large", separator=separator)
    return [
        plain,
        replace(plain, longest=3),
        replace(plain, final="four"),
        replace(plain, grade=Grade()),
        replace(plain, grade=Grade(accept=3), longest=2, final="7"),
        replace(plain, handoff="prompt"),
    ]


chat: dict[str, Any] = {"messages": [{"role": "user", "content": "?"}]}
completion: dict[str, Any] = {"prompt": "?", "max_tokens": 10_000}
few = settings(max_examples=30)  # of each of some hundred cases
every_kind = pytest.mark.parametrize("kind", range(6))
every_body = pytest.mark.parametrize("body", [chat, completion], ids=["chat", "completion"])


@pytest.mark.slow
@every_kind
@every_body
@pytest.mark.parametrize("separator", ["\n", "\n\n", "=", "ee"])
@few
@given(lines=texts, seed=chances)
def test_the_answer_is_what_both_would_have_written(
    kind: int, body: dict[str, Any], separator: str, lines: list[str], seed: int
) -> None:
    stage = Stage(separator.join(lines), random.Random(seed), halves=0.1, specials=0.1)
    ended = stage.run(policies(separator)[kind], **body)
    assert stage.shown == stage.text
    assert isinstance(ended, Finished)
    assert ended == stage.finish
    assert ended.reason == "stop"


@pytest.mark.parametrize("kind", [0, 2, 3])
@few
@given(lines=texts, seed=chances)
def test_a_template_that_strips_white_space_makes_no_difference(
    kind: int, lines: list[str], seed: int
) -> None:
    stage = Stage("\n\n".join(lines), random.Random(seed), trims=True)
    stage.run(policies("\n\n")[kind], **chat)
    assert stage.shown == stage.text


@every_kind
@every_body
@few
@given(lines=texts, seed=chances)
def test_failures_lose_and_double_nothing(
    kind: int, body: dict[str, Any], lines: list[str], seed: int
) -> None:
    stage = Stage("\n\n".join(lines), random.Random(seed), breaks=0.08)
    ended = stage.run(policies("\n\n")[kind], **body)
    if isinstance(ended, Finished):
        assert stage.shown == stage.text
    else:
        assert stage.text.startswith(stage.shown)
        assert ended.sent is bool(stage.tokens)
        assert not ended.spare


@every_kind
@few
@given(lines=texts, seed=chances, stop=st.sampled_from(["end", "e\n\nS", "7", "\n", "🚲\n\nx"]))
def test_nothing_behind_a_stop_string_is_shown(
    kind: int, lines: list[str], seed: int, stop: str
) -> None:
    stage = Stage("\n\n".join(lines), random.Random(seed), breaks=0.02)
    ended = stage.run(policies("\n\n")[kind], stop=stop, **chat)
    before, found, _ = stage.text.partition(stop)
    if isinstance(ended, Finished) and not stage.routed:
        assert stage.shown == before
        assert ended.stop_reason == (stop if found else None)
    elif not stage.routed:
        assert before.startswith(stage.shown)


@every_kind
@few
@given(lines=texts, seed=chances, most=st.integers(1, 30))
def test_the_answer_is_never_longer_than_asked(
    kind: int, lines: list[str], seed: int, most: int
) -> None:
    stage = Stage("\n\n".join(lines), random.Random(seed), specials=0.1)
    ended = stage.run(policies("\n\n")[kind], max_tokens=most, **chat)
    assert isinstance(ended, Finished)
    assert stage.text.startswith(stage.shown)
    if ended.reason == "length":
        assert len(stage.tokens) == most
    else:
        assert stage.shown == stage.text


@pytest.mark.parametrize("separator", ["\n\n", "ee"])
@every_kind
@few
@given(lines=texts, seed=chances)
def test_the_texts_of_the_tokens_join_up(
    separator: str, kind: int, lines: list[str], seed: int
) -> None:
    """Those of the token behind a separator are in two steps, and in one token."""
    stage = Stage(separator.join(lines), random.Random(seed))
    stage.run(policies(separator)[kind], **chat)
    joined = iter(stage.shown)
    assert all(letter in joined for token in stage.tokens for letter in token.text)
