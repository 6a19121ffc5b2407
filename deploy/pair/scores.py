"""The endpoints that tell scores, as a vLLM with `--runner pooling` has them (0.32).

`/v1/score` (and `/score`) takes questions and answers, `/classify` and `/pooling` chats or texts.
All of them come to one reward head. Knows bodies, their checks and the shapes of the answers. Must
not know how a score is made. A model without a head answers as one that cannot score does there.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from deploy.pair.bodies import ChatMessages, PooledBody, ScoreBody, read
from deploy.pair.exchange import Exchange
from deploy.pair.refusal import Refusal, refuse
from deploy.pair.served import Served

Handler: TypeAlias = Callable[[Exchange], Awaitable[None]]
Row: TypeAlias = dict[str, Any]


class ScoreRoutes:
    """The endpoints; `named` finds a model by its name, or refuses."""

    def __init__(self, named: Callable[[str | None], Served]) -> None:
        self._named = named

    @property
    def handlers(self) -> Mapping[str, dict[str, Handler]]:
        """By path and method."""
        return {
            "/score": {"POST": self._score},
            "/v1/score": {"POST": self._score},
            "/classify": {"POST": self._classify},
            "/pooling": {"POST": self._pool},
        }

    async def _score(self, exchange: Exchange) -> None:
        body = read(ScoreBody, await exchange.body())
        served = self._scoring(body.model, "Score")
        prompts = [
            _chat(served, [_said("user", question), _said("assistant", answer)])
            for question, answer in _pairs(body)
        ]
        scores = await _scored(served, prompts, body.use_activation)
        rows = [{"index": n, "object": "score", "score": s} for n, s in enumerate(scores)]
        await exchange.json(_answer("score", served, rows, prompts))

    async def _classify(self, exchange: Exchange) -> None:
        body = read(PooledBody, await exchange.body())
        served = self._scoring(body.model, "Classification")
        prompts = _prompts(served, body)
        scores = await _scored(served, prompts, body.use_activation)
        rows = [
            {"index": n, "label": "LABEL_0", "probs": [score], "num_classes": 1}
            for n, score in enumerate(scores)
        ]
        await exchange.json(_answer("classify", served, rows, prompts))

    async def _pool(self, exchange: Exchange) -> None:
        body = read(PooledBody, await exchange.body())
        served = self._scoring(body.model, "Pooling")
        if body.encoding_format != "float":
            refuse("The embedded pair tells scores as numbers only.", "encoding_format")
        if body.dimensions is not None:
            refuse("dimensions is currently not supported", "dimensions")
        prompts = _prompts(served, body)
        scores = await _scored(served, prompts, body.use_activation)
        rows = [{"index": n, "object": "pooling", "data": [s]} for n, s in enumerate(scores)]
        await exchange.json(_answer("pooling", served, rows, prompts))

    def _scoring(self, name: str | None, api: str) -> Served:
        served = self._named(name)
        if served.reward is None:
            message = f"The model does not support {api} API"
            raise Refusal(501, "NotImplementedError", message)
        return served


def _pairs(body: ScoreBody) -> Sequence[tuple[str, str]]:
    """Each question with its answer; one question may have many."""
    questions, answers = _listed(body.questions), _listed(body.answers)
    if len(questions) > 1 and len(questions) != len(answers):
        refuse("Input lengths must be either 1:1, 1:N or N:N")
    if not questions:
        refuse("At least one text element must be given")
    if not answers:
        refuse("At least one text_pair element must be given")
    if len(questions) == 1:
        questions = questions * len(answers)
    return list(zip(questions, answers, strict=True))


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _prompts(served: Served, body: PooledBody) -> list[list[int]]:
    """One chat, or texts, as token ids."""
    if body.messages is None:
        return served.renderer.prompts(body.input, body.add_special_tokens)
    return [_chat(served, body.messages)]


def _chat(served: Served, messages: list[Row]) -> list[int]:
    """Token ids of a chat whose last message stays open: so the head was trained."""
    chat = ChatMessages(messages=messages, add_generation_prompt=False, continue_final_message=True)
    return served.renderer.chat_prompt(chat)[1]


def _said(role: str, content: str) -> Row:
    return {"role": role, "content": content}


async def _scored(
    served: Served, prompts: Sequence[list[int]], activation: bool | None
) -> list[float]:
    fitting = [served.renderer.fitting(prompt) for prompt in prompts]
    scores = []
    for prompt in fitting:
        await served.awake()
        scores.append(served.score(prompt, squashed=activation is not False))
        await asyncio.sleep(0)  # others have their turn between two texts
    return scores


def _answer(
    kind: str, served: Served, rows: Sequence[Row], prompts: Sequence[Sequence[int]]
) -> Row:
    tokens = sum(map(len, prompts))
    usage = {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
    named = {"id": f"{kind}-{uuid.uuid4().hex}", "object": "list", "created": int(time.time())}
    return {**named, "model": served.name, "data": rows, "usage": usage}
