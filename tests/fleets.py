"""Builders for tests of the core: a fleet, a request, an attempt, and what one may hear of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson

from router.faults import Blame, Fault
from router.fleet import Abilities, Fleet, ModelView, Price
from router.steps import Alternative, Attempt, Delta, Failed, Finished, Request, Surface, Token

QUESTION = "What is 3 + 4?"


def fleet(*models: str) -> Fleet:
    """A fleet of these models, each with two healthy backends; `small` and `large` by default."""
    names = models or ("small", "large")
    views = {
        name: ModelView(
            name=name,
            params_b=1.0,
            context=4096,
            price=Price(1.0, 2.0),
            abilities=Abilities(),
            healthy=2,
            in_flight=0,
        )
        for name in names
    }
    return Fleet(MappingProxyType(views))


def request(
    surface: Surface = Surface.CHAT,
    target: str = "auto",
    body: Mapping[str, Any] | None = None,
    *,
    session: str | None = None,
    draw: float = 0.0,
) -> Request:
    """A request as `router.wire` would parse it; a chat has one question by default."""
    said = {"messages": [{"role": "user", "content": QUESTION}]} if body is None else dict(body)
    whole = {"model": target, **said}
    return Request(
        surface=surface,
        target=target,
        body=whole,
        raw=orjson.dumps(whole),
        stream=bool(whole.get("stream")),
        session=session,
        draw=draw,
        id="req-0123456789abcdef01234567",
    )


def attempt(model: str, backend: str, number: int = 0) -> Attempt:
    """The engine's reply to `Open`; an empty `backend` means that none could be picked."""
    return Attempt(number, model, backend)


def delta(of: Attempt, text: str, *logprobs: float, choice: int = 0) -> Delta:
    """More text, in as many tokens as there are log-probabilities."""
    tokens = tuple(Token(text, None, value, (Alternative(text, value),)) for value in logprobs)
    return Delta(of, text, tokens, choice)


def finished(of: Attempt, reason: str = "stop") -> Finished:
    """The answer of this attempt is complete."""
    return Finished(of, reason)


def failed(
    of: Attempt, blame: Blame = Blame.BACKEND, *, sent: bool = False, spare: bool = False
) -> Failed:
    """The attempt broke, by this one's fault."""
    return Failed(of, Fault(blame, f"{blame} broke it"), sent=sent, spare=spare)
