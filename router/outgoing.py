"""Outgoing: the bytes that an `Open` step sends to a backend, out of the client's own bytes.

Changed are the model's name (to what the backend calls it) and what the step asks for; usage is
always asked for in a stream, since costs are counted whether or not the client wants to see them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.call import Outgoing
from router.dialect import OPENAI_STREAMS
from router.pool import Pool
from router.splice import splice
from router.steps import Open, Request, Surface

ANSWERED_IN = {
    "logprobs": "logprobs",
    "top_logprobs": "logprobs",
    "return_token_ids": "token_ids",
}
"""Fields of a request that make a field appear in each choice of its answer."""


NOTHING: frozenset[str] = frozenset()


def outgoing(
    step: Open, pool: Pool, traced: Mapping[str, str] | None = None, path: str = ""
) -> Outgoing:
    """The call that `step` makes to a backend of `pool`; `traced` says which span it belongs to,
    `path` where it goes, if not where its surface says.
    """
    request = step.request
    changes: dict[str, Any] = {**step.changes, "model": pool.settings.served_as or pool.name}
    if request.stream and request.surface in OPENAI_STREAMS:
        asked = request.body.get("stream_options") or {}
        if asked.get("include_usage") is not True:
            changes["stream_options"] = {**asked, "include_usage": True}
    if "request_id" in request.body:
        changes["request_id"] = request.id  # a client's own would stand in logs and file names
    if request.surface is not Surface.COUNT_TOKENS:  # which caches nothing
        changes |= salted(request, pool)
    return Outgoing(
        path=path or f"/v1/{request.surface.value}",
        body=splice(request.raw, request.body, changes),
        headers=headers(request, pool, traced),
        surface=request.surface,
        stream=request.stream,
        prompt=_tokens(changes.get("prompt", request.body.get("prompt"))),
        choices=_choices(changes.get("n", request.body.get("n"))),
    )


def salted(request: Request, pool: Pool) -> Mapping[str, str]:
    """The field by which the pool's backends keep what they cache for this tenant to itself.

    Not sent to those that do not know it: they would ignore it, or refuse the request.
    """
    known = pool.abilities.salts is not False
    return {"cache_salt": request.salt} if request.salt and known else {}


def _tokens(prompt: Any) -> int | None:
    """How many tokens a prompt of token ids has."""
    ids = isinstance(prompt, list | tuple) and prompt and isinstance(prompt[0], int)
    return len(prompt) if ids else None


def _choices(n: Any) -> int:
    """How many answers are asked for; 1 where what stands there is no number of them."""
    return n if isinstance(n, int) and n > 1 else 1


def headers(
    request: Request, pool: Pool, traced: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What goes along: the pool's own key, the gateway's request id, and the trace: the gateway's
    own if it is `traced`, else the client's.
    """
    told = {"content-type": "application/json", "x-request-id": request.id}
    told = {**request.forwarded, **told, **pool.credentials}
    if traced is not None:
        told.pop("tracestate", None)
        told.update(traced)
    return told


def hidden_by(step: Open) -> frozenset[str]:
    """The fields of the answer's choices that are there only because `step` asked for them."""
    if not step.changes:
        return NOTHING
    asked = step.request.body
    return frozenset(_shown_by(step.changes)) - frozenset(_shown_by(asked))


def _shown_by(body: Mapping[str, Any]) -> Iterator[str]:
    """What these fields make appear; 0 alternatives still ask for the token's own probability."""
    for name, field in ANSWERED_IN.items():
        value = body.get(name)
        if value is not None and value is not False:
            yield field
