"""What only a backend can say of a text: its token ids and back, what its parsers read in it, and
where it lies for an embedder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from router.attempts import Shared
from router.backend import Backend
from router.call import silent
from router.dialect import fault_of, message_in
from router.faults import Blame, FaultError
from router.outgoing import headers, salted
from router.patience import Patience
from router.pool import Pool
from router.steps import Embed, Parse, Parsed, Render, Request, Spell, Vectors
from router.upstream import broken

RENDERED = (
    "messages", "tools", "prompt", "add_generation_prompt", "continue_final_message",
    "add_special_tokens", "chat_template", "chat_template_kwargs", "documents", "reasoning_effort",
)  # fmt: skip
"""The fields of a request that its prompt is made of."""
NEAR = 16
"""Tokens of the prompt that an answer is spelled after; derender reads the last few."""
LONGEST = 64 << 20
"""Bytes of an answer: a million ids of seven digits, eight times over."""


Question: TypeAlias = Render | Spell | Parse | Embed
Told: TypeAlias = tuple[int, ...] | str | Parsed | Vectors


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is asked, on whose behalf, and how many seconds it may take to answer."""

    shared: Shared
    backend: Backend
    pool: Pool
    request: Request
    limit: float

    @property
    def named(self) -> Mapping[str, Any]:
        """The model as the backend calls it."""
        return {"model": self.pool.settings.served_as or self.pool.name}

    async def answer(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that it answers with, its load counted. Raises `FaultError`."""
        named = {**self.named, **body, **salted(self.request, self.pool)}
        guard = self.backend.enter()
        blame: Blame | None = Blame.GONE
        patience = Patience(self.shared.alarms, self.limit)
        patience.begin()
        try:
            decoded = await self._said(path, orjson.dumps(named))
            blame = None
            return decoded
        except FaultError as error:
            blame = error.fault.blame
            raise
        except asyncio.CancelledError:
            if not patience.broke_it():
                raise
            blame = Blame.BACKEND
            raise silent(self.limit, "first_token_timeout") from None
        finally:
            patience.stop()
            guard.leave(blame)

    async def _said(self, path: str, body: bytes) -> Any:
        head = headers(self.request, self.pool)
        reply = await self.shared.upstream.send(self.backend.url, path, body, head)
        try:
            said = await reply.read_whole(LONGEST)
        finally:
            reply.close()
        return _decoded(path, reply.status, said)


async def answered(asked: Asked, step: Question) -> Told:
    """The answer to any of these questions. Raises `FaultError`."""
    match step:
        case Render():
            return await prompt_ids(asked)
        case Spell():
            return await spelled(asked, step.tokens)
        case Parse():
            return await parsed(asked, step)
        case Embed():
            return await vectors(asked, step.texts)


async def prompt_ids(asked: Asked) -> tuple[int, ...]:
    """The prompt's token ids as the backend sees them. Raises `FaultError`."""
    body = asked.request.body
    said = await asked.answer("/tokenize", {n: body[n] for n in RENDERED if n in body})
    ids = said.get("tokens") if isinstance(said, dict) else None
    if isinstance(ids, list) and all(isinstance(number, int) for number in ids):
        return tuple(ids)
    raise broken("the backend's /tokenize does not answer with tokens", "bad_json")


async def spelled(asked: Asked, tokens: tuple[int, ...]) -> str:
    """The text of these tokens. Raises `FaultError`."""
    said = await asked.answer("/detokenize", {"tokens": tokens})
    text = said.get("prompt") if isinstance(said, dict) else None
    if isinstance(text, str):
        return text
    raise broken("the backend's /detokenize does not answer with a prompt", "bad_json")


async def parsed(asked: Asked, step: Parse) -> Parsed:
    """The answer as the backend's own parsers read it (vLLM's derender). Raises `FaultError`."""
    choice = {"index": 0, "token_ids": step.tokens, "finish_reason": step.reason}
    chat = {**asked.request.body, **asked.named, "stream": False, "n": 1, "stream_options": None}
    chat["request_id"] = asked.request.id
    body = {
        "generate_response": {"request_id": asked.request.id, "choices": [choice]},
        "prompt_token_ids": step.prompt[-NEAR:],
        "chat_request": chat,
    }
    said = await asked.answer("/v1/chat/completions/derender", body)
    choices = said.get("choices") if isinstance(said, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    read = first if isinstance(first, dict) else {}
    message = read.get("message")
    if isinstance(message, dict):
        return Parsed(message, str(read.get("finish_reason") or step.reason))
    raise broken("the backend's derender does not answer with a message", "bad_json")


async def vectors(asked: Asked, texts: tuple[str, ...]) -> Vectors:
    """The embeddings of these texts, in their order. Raises `FaultError`."""
    said = await asked.answer("/v1/embeddings", {"input": texts, "encoding_format": "float"})
    data = said.get("data") if isinstance(said, dict) else None
    rows = data if isinstance(data, list) else []
    try:
        found = {row.get("index", at): row["embedding"] for at, row in enumerate(rows)}
        ordered = [tuple(map(float, found[at])) for at in range(len(texts))]
    except (AttributeError, KeyError, TypeError, ValueError):
        ordered = []
    if len({len(row) for row in ordered}) == 1 and ordered[0]:
        return tuple(ordered)
    raise broken("the backend's /v1/embeddings does not answer with embeddings", "bad_json")


def _decoded(path: str, status: int, body: bytes) -> Any:
    if status != 200:
        raise FaultError(fault_of(status, message_in(body), body))
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise broken(f"the backend's {path} does not answer with JSON", "bad_json") from None
