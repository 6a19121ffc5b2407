"""The request, as policies see it: what was asked, by which API, and tokens that were counted.

Part of the vocabulary: `router.steps` names these three too, and policies take them from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class Surface(StrEnum):
    """The API a request came in by: the path below `/v1/`. An allow-list, nothing else passes."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    MESSAGES = "messages"
    COUNT_TOKENS = "messages/count_tokens"
    RERANK = "rerank"
    SCORE = "score"


# ---------------------------------------------------------------------------------- the request


@dataclass(frozen=True, slots=True)
class Request:
    """One call: what is routed on, parsed, beside the raw body that everything else travels in.

    `body` is the decoded JSON object and must not be changed; `raw` holds the same bytes as the
    client sent them. `draw` is uniform in [0, 1), the request's only randomness: a policy that
    needs a coin uses it, so that a replay tosses the same coin. `session` is the client's own
    stickiness key, if it sent one. `low`: requests of high priority go before it.
    """

    surface: Surface
    target: str
    body: Mapping[str, Any]
    raw: bytes
    stream: bool = False
    session: str | None = None
    draw: float = 0.0
    id: str = ""
    forwarded: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The client's headers that travel on to the backend (trace context), lower-case names."""
    explain: bool = False
    """Whether the client wants to be told which model wrote which token, and what was read."""
    ask: str | None = None
    """What is asked, where a policy that hands the request on has told it from its documents."""
    low: bool = False
    """Whether other requests go first where there is a line."""
    salt: str = ""
    """Keeps what backends cache for the client's tenant apart; empty where nothing does."""

    def asking(
        self, body: Mapping[str, Any], surface: Surface = Surface.CHAT, *, stream: bool = False
    ) -> Request:
        """A request of the policy's own making (a grade, say), under the same id and session."""
        asked = {**body, "stream": True} if stream else body
        return replace(self, surface=surface, body=asked, raw=b"", stream=stream)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the backend counted them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def __add__(self, other: Usage) -> Usage:
        prompt, completion = self.prompt + other.prompt, self.completion + other.completion
        return Usage(prompt, completion, self.cached + other.cached)


# ------------------------------------------------------------------------------------- the steps
