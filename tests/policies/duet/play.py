"""Plays a policy against a world: engines that speak in pieces of any size, in any order, and fail.

What is drawn at random is only what must make no difference to the answer. A play watches that
every call is closed or over at the end, and that nobody speaks through a call that is not open.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from router.fleet import Abilities, Fleet
from router.observe import AttemptEnded
from router.steps import (
    Attempt,
    Blame,
    Close,
    Delta,
    Emit,
    Ended,
    Event,
    Failed,
    Fault,
    Finished,
    Next,
    Note,
    Open,
    Policy,
    Render,
    Request,
    Spell,
    Step,
    Token,
    Usage,
)
from tests.fleets import fleet
from tests.policies.duet.world import GATE, LONGEST, PROMPT, Said, World, decoded, said

BACKENDS = ("a:1", "b:1", "c:1")
FAULT = Fault(Blame.BACKEND, "it fell over")


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two sequences share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def able(*, gate: int | None = GATE) -> Fleet:
    """Both models, with gates in their engines or without."""
    views = dict(fleet("small", "large").models)
    abilities = Abilities(token_ids=True, gate=gate, context=LONGEST)
    for name, view in views.items():
        views[name] = replace(view, abilities=abilities, context=LONGEST)
    return Fleet(MappingProxyType(views))


@dataclass
class Running:
    """One call: what is left of what its engine says."""

    attempt: Attempt
    body: Mapping[str, Any]
    avoid: frozenset[str]
    held: int
    said: Said
    told: int = 0
    emitted: int = 0
    emitting: bool = False
    state: str = "open"

    @property
    def stopped(self) -> bool:
        """Whether the token that ends the answer is told: who fails now is not tested."""
        return self.said.reason == "stop" and self.told == len(self.said.tokens)

    def ended(self) -> AttemptEnded:
        """As listeners see it: what the engine computed until it was told to stop."""
        blame = None if self.state == "complete" else Blame.GONE
        usage = Usage(len(self.body["prompt"]), self.told)
        return AttemptEnded(
            model=self.attempt.model, backend=self.attempt.backend, blame=blame, seconds=1.0,
            first_byte=0.1, usage=usage, answer=self.emitting,
            emitted=self.emitted if self.emitting else None, held=self.held,
        )  # fmt: skip


@dataclass
class Play:
    """One answer. `failures` is how many calls break, `pieces` the most tokens in one event."""

    world: World
    policy: Policy
    request: Request
    fleet: Fleet
    rng: random.Random
    pieces: int = 3
    failures: int = 0
    lose: str = ""
    """The model whose first failing call takes all its backends along."""
    calls: list[Running] = field(default_factory=list)
    ids: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    parts: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    tokens: defaultdict[int, list[Token]] = field(default_factory=lambda: defaultdict(list))
    writers: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    finishes: dict[int, Finished] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    broken: set[Any] = field(default_factory=set)
    spelled: int = 0
    ended: Ended | None = None

    def run(self) -> Play:
        """To the end."""
        steps, reply = self.policy.route(self.request, self.fleet), None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                self.ended = stop.value
                left = [call for call in self.calls if call.state == "open"]
                assert not left, f"still running: {left}"
                return self
            reply = self._reply(step)

    def text(self, choice: int = 0) -> str:
        """What the client was shown."""
        return "".join(self.parts[choice])

    @property
    def attempts(self) -> list[AttemptEnded]:
        """Those that were sent."""
        return [call.ended() for call in self.calls if call.told]

    def _reply(self, step: Step) -> Any:
        match step:
            case Open():
                return self._open(step)
            case Next():
                return self._next(step)
            case Emit():
                self._emit(step)
            case Close():
                call = self._call(step.attempt)
                call.state = "closed" if call.state == "open" else call.state
            case Note():
                self.notes.append(step)
            case Render():
                return PROMPT
            case Spell():
                self.spelled += 1
                return decoded(step.tokens, marks=True)
            case _:
                raise AssertionError(f"it asks for {step}")
        return None

    def _call(self, attempt: Attempt) -> Running:
        return next(call for call in self.calls if call.attempt == attempt)

    def _open(self, step: Open) -> Attempt:
        body = step.request.body
        names = [name for name in BACKENDS if name not in step.avoid]
        names = [] if step.model in self.lost else names
        picked = step.prefer if step.prefer in names else self.rng.choice(names) if names else ""
        if not picked:
            return Attempt(-1 - len(self.calls), step.model, "")
        assert step.held <= len(body["prompt"])
        attempt = Attempt(len(self.calls), step.model, picked)
        held = step.held if picked == step.prefer else 0
        assert held <= self._cached(attempt, body["prompt"]), "that backend has not seen so much"
        fits = len(body["prompt"]) < LONGEST
        answer = said(self.world, step.model, body) if fits else Said((), "", None)
        self.calls.append(Running(attempt, body, step.avoid | {picked}, held, answer))
        return attempt

    def _cached(self, attempt: Attempt, prompt: tuple[int, ...]) -> int:
        """How many of these tokens the backend has read or written before."""
        seen = [
            (*call.body["prompt"], *(spoken.token.id for spoken in call.said.tokens[: call.told]))
            for call in self.calls
            if (call.attempt.model, call.attempt.backend) == (attempt.model, attempt.backend)
        ]
        return max((_common(ids, prompt) for ids in seen), default=0)

    def _next(self, step: Next) -> Event:
        assert step.timeout is None
        for attempt in step.attempts:
            if not attempt.backend:
                return Failed(attempt, FAULT)
        call = self._call(self.rng.choice(step.attempts))
        assert call.state == "open", f"it waits for a call that is {call.state}"
        if self.failures and not call.stopped and self.rng.random() < 0.15:
            self.failures -= 1
            return self._fail(call, listened=call.attempt == step.attempts[0])
        return self._speak(call)

    def _fail(self, call: Running, *, listened: bool) -> Failed:
        call.state = "failed"
        model = call.attempt.model
        at = len(call.body["prompt"]) - len(PROMPT) + call.emitted
        if listened:
            self.broken.add((model, at))
        if model == self.lose or not set(BACKENDS) - call.avoid:
            self.lost.setdefault(model, at)
        spare = model not in self.lost
        return Failed(call.attempt, FAULT, call.emitting, spare)

    def _speak(self, call: Running) -> Event:
        left = call.said.tokens[call.told :]
        if not left:
            call.state = "complete"
            usage = Usage(len(call.body["prompt"]), call.told)
            return Finished(call.attempt, call.said.reason, call.said.stop_reason, usage)
        piece = left[: self.rng.randint(1, self.pieces)]
        call.told += len(piece)
        text = "".join(spoken.text for spoken in piece)
        return Delta(call.attempt, text, tuple(spoken.token for spoken in piece))

    def _emit(self, step: Emit) -> None:
        call = self._call(step.attempt)
        assert call.state in ("open", "complete"), f"it emits from a call that is {call.state}"
        assert step.choice not in self.finishes, "it emits into a choice that has ended"
        call.emitting = True
        call.emitted += len(step.tokens)
        self.parts[step.choice].append(step.text)
        self.tokens[step.choice] += step.tokens
        self.ids[step.choice] += [token.id for token in step.tokens if token.id is not None]
        self.writers[step.choice] += [step.attempt.model] * len(step.tokens)
        if step.finish is not None:
            self.finishes[step.choice] = step.finish
