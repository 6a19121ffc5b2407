"""A policy tried out: prompts answered by a gateway in this process, and what that took.

The whole of Tandem is in the loop (HTTP on a loopback port, the policy, the backends), so what is
counted here is what a client of `tandem serve` would see. Counts come from the gateway's own
observations; that the answers are right is for the caller to say. Keys and the log of the
configuration are left out: a trial is nobody's traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import httpx
from tqdm import tqdm

from app.rooms import Rooms, rooms
from app.serve import listening
from policies import TABLE
from router.config import ConfigError, Document, Form, parse
from router.observe import AttemptEnded, Observation, RequestEnded
from router.runtime import misfits

PATIENCE = 600.0
"""Seconds for one answer: the gateway's own deadline is what ends a slow one."""
IDLE = 2.0
"""Seconds after which an idle connection is given up: before the gateway does so, after 5, perhaps
at the moment at which the next prompt is sent by it."""
NOT_HERE = ("keys", "log", "listen", "admin")
"""Sections that belong to serving clients."""

T = TypeVar("T")
Messages: TypeAlias = Sequence[Mapping[str, Any]]


class TrialError(Exception):
    """An answer failed; the message holds the gateway's own."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How prompts are asked: greedily, `at_once` at a time, for at most `max_tokens` each."""

    at_once: int = 8
    max_tokens: int = 320


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer: its text, the attempts behind it, the models of its tokens in order, and why."""

    text: str
    attempts: tuple[AttemptEnded, ...]
    writers: tuple[str, ...]
    reason: str
    detail: str

    def tokens(self, model: str | None = None) -> int:
        """Tokens that the client got, of this model or of all."""
        return sum(a.written for a in self.attempts if model in (None, a.model))

    @property
    def handoffs(self) -> int:
        """How often the writing model changed."""
        return sum(one != other for one, other in pairwise(self.writers))


@dataclass(frozen=True, slots=True)
class Run:
    """All prompts answered by one policy, in their order, in `seconds` of wall time."""

    answers: tuple[Answered, ...]
    seconds: float

    @property
    def attempts(self) -> Iterator[AttemptEnded]:
        """Those behind all answers."""
        return (attempt for answer in self.answers for attempt in answer.attempts)

    def share(self, model: str) -> float:
        """This model's part of the tokens."""
        return sum(a.tokens(model) for a in self.answers) / max(self.tokens, 1)

    @property
    def tokens(self) -> int:
        """Tokens of all answers."""
        return sum(answer.tokens() for answer in self.answers)

    @property
    def handoffs_per_100(self) -> float:
        """Changes of the writing model per 100 tokens."""
        return 100 * sum(answer.handoffs for answer in self.answers) / max(self.tokens, 1)


@dataclass(slots=True)
class Listener:
    """Keeps how each request ended until it is asked for."""

    ended: dict[str, asyncio.Future[RequestEnded]] = field(default_factory=dict)

    def __call__(self, observation: Observation) -> None:
        """A listener of the gateway."""
        if isinstance(observation, RequestEnded):
            self._of(observation.id).set_result(observation)

    async def how(self, request_id: str) -> RequestEnded:
        """How this request ended, once it has."""
        ended = await self._of(request_id)
        del self.ended[request_id]
        return ended

    def _of(self, request_id: str) -> asyncio.Future[RequestEnded]:
        loop = asyncio.get_running_loop()
        return self.ended.setdefault(request_id, loop.create_future())


@dataclass(frozen=True, slots=True)
class Trial:
    """A gateway that runs, and a client for it."""

    rooms: Rooms
    client: httpx.AsyncClient
    listener: Listener
    asking: Asking

    async def put(self, name: str, block: Mapping[str, Any]) -> None:
        """Serve this policy under this name, new or not. Raises `ConfigError`."""
        await self.rooms.revisions.replace_policy(name, block)
        if problems := tuple(misfits(self.rooms.revisions.runtime)):
            raise ConfigError(f"policies.{name}", problems)

    async def run(self, target: str, prompts: Sequence[Messages], label: str = "") -> Run:
        """Answer all prompts; a progress bar on stderr shows how long it will take."""
        began = time.perf_counter()
        asking = [functools.partial(self.answer, target, messages) for messages in prompts]
        answers = await self._all(asking, label or target)
        return Run(tuple(answers), time.perf_counter() - began)

    async def each(self, bodies: Sequence[Mapping[str, Any]], label: str) -> list[dict[str, Any]]:
        """The whole answers to these chat requests; else as `run`. Raises `TrialError`."""

        async def one(body: Mapping[str, Any]) -> dict[str, Any]:
            told, _ = await self.told(body)
            return told

        return await self._all([functools.partial(one, body) for body in bodies], label)

    async def _all(self, asking: Sequence[Callable[[], Awaitable[T]]], label: str) -> list[T]:
        gate = asyncio.Semaphore(self.asking.at_once)
        with tqdm(total=len(asking), desc=label, file=sys.stderr, unit="prompt") as bar:

            async def one(ask: Callable[[], Awaitable[T]]) -> T:
                async with gate:
                    heard = await ask()
                    bar.update()
                    return heard

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(ask)) for ask in asking]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def answer(self, target: str, messages: Messages) -> Answered:
        """One greedy answer. Raises `TrialError`."""
        body = {
            "model": target,
            "messages": list(messages),
            "temperature": 0,
            "max_tokens": self.asking.max_tokens,
        }
        told, ended = await self.told(body)
        return Answered(
            told["choices"][0]["message"]["content"] or "",
            ended.attempts,
            tuple(_writers(told, ended.attempts)),
            ended.reason,
            ended.detail,
        )

    async def told(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], RequestEnded]:
        """The whole answer to a chat request, and how it ended. Raises `TrialError`."""
        headers = {"x-tandem-explain": "1"}
        response = await self.client.post("/v1/chat/completions", json=body, headers=headers)
        if not response.is_success:
            raise TrialError(f"{body['model']} failed: {_message(response)}")
        return response.json(), await self.listener.how(response.headers["x-request-id"])


def _message(response: httpx.Response) -> str:
    """What the gateway says went wrong."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:600]


def _writers(told: Mapping[str, Any], attempts: Iterable[AttemptEnded]) -> Iterator[str]:
    """The model of each token; of an answer that was passed on as it came, of each attempt."""
    explained = told.get("tandem")
    if explained:
        yield from (token["model"] for token in explained["choices"][0]["tokens"])
    else:
        yield from (attempt.model for attempt in attempts if attempt.written)


@contextlib.asynccontextmanager
async def trying(document: Document, asking: Asking) -> AsyncIterator[Trial]:
    """A gateway with the models and policies of `document`; every backend was asked what it can do.

    Raises `ConfigError` if the policies do not fit what the backends can do.
    """
    tree = {name: part for name, part in document.written.tree.items() if name not in NOT_HERE}
    bare = parse(json.dumps(tree), TABLE, document.written.source, Form.JSON)
    listener = Listener()
    async with rooms(bare, listener) as room, listening(room.gateway) as url:
        await room.health.probed()
        if problems := tuple(misfits(room.revisions.runtime)):
            raise ConfigError(document.written.source, problems)
        limits = httpx.Limits(max_connections=None, keepalive_expiry=IDLE)
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as client:
            yield Trial(room, client, listener, asking)
