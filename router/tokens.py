"""Token ids of a prompt, asked of a backend: its chat template and tokenizer are the true ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from router.backend import Backend
from router.dialect import fault_of, message_in
from router.faults import Blame, FaultError
from router.outgoing import headers
from router.pool import Pool
from router.steps import Request
from router.upstream import Upstream, broken

RENDERED = ("messages", "tools", "prompt", "add_generation_prompt", "continue_final_message")
"""The fields of a request that its prompt is made of."""
LONGEST = 64 << 20
"""Bytes of an answer: a million ids of seven digits, eight times over."""


async def prompt_ids(
    upstream: Upstream, backend: Backend, pool: Pool, request: Request
) -> tuple[int, ...]:
    """The prompt's token ids as `backend` sees them. Raises `FaultError`."""
    asked: Mapping[str, Any] = {
        "model": pool.settings.served_as or pool.name,
        **{name: request.body[name] for name in RENDERED if name in request.body},
    }
    guard = backend.enter()
    blame: Blame | None = Blame.GONE
    try:
        reply = await upstream.send(
            backend.url, "/tokenize", orjson.dumps(asked), headers(request, pool)
        )
        try:
            body = await reply.read_whole(LONGEST)
        finally:
            reply.close()
        ids = _ids(reply.status, body)
    except FaultError as error:
        blame = error.fault.blame
        raise
    else:
        blame = None
        return ids
    finally:
        guard.leave(blame)


def _ids(status: int, body: bytes) -> tuple[int, ...]:
    if status != 200:
        raise FaultError(fault_of(status, message_in(body), body))
    try:
        ids = orjson.loads(body)["tokens"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        ids = None
    if isinstance(ids, list) and all(isinstance(number, int) for number in ids):
        return tuple(ids)
    raise broken("the backend's /tokenize does not answer with tokens", "bad_json")
