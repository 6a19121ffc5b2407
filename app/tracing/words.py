"""What attributes and metrics are called, and what their closed sets of values mean.

Names that begin with `gen_ai`, `http`, `server`, `url` and `error` are OpenTelemetry's; `tandem` is
our own. The conventions for generative AI are still in development and are followed as of 2026;
docs/tracing.md lists all of these, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from router.observe import AttemptEnded
from router.steps import Request, Surface
from router.trace import Value

SCOPE: Final = "tandem"
GATEWAY: Final = "tandem"
ENGINE: Final = "vllm"
"""Who answers, for `gen_ai.provider.name`: the gateway, or a server in vLLM's dialect."""

OPERATIONS: Final[Mapping[Surface, str]] = {
    Surface.CHAT: "chat",
    Surface.COMPLETIONS: "text_completion",
    Surface.EMBEDDINGS: "embeddings",
    Surface.RESPONSES: "chat",
    Surface.MESSAGES: "chat",
    Surface.COUNT_TOKENS: "count_tokens",
    Surface.RERANK: "rerank",
    Surface.SCORE: "score",
}
"""The conventions' own words where they have one."""

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
ASKED_MODEL: Final = "gen_ai.request.model"
ANSWERED_MODEL: Final = "gen_ai.response.model"
STREAM: Final = "gen_ai.request.stream"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  # of a language model
ERROR: Final = "error.type"
HOST: Final = "server.address"
PORT: Final = "server.port"
METHOD: Final = "http.request.method"
ROUTE: Final = "http.route"
STATUS: Final = "http.response.status_code"
SCHEME: Final = "url.scheme"
PATH: Final = "url.path"

REQUEST_ID: Final = "tandem.request.id"
POLICY: Final = "tandem.policy"
REVISION: Final = "tandem.revision"
REASON: Final = "tandem.reason"
KEY: Final = "tandem.key"
COST: Final = "tandem.cost_usd"
BASELINE: Final = "tandem.baseline_usd"
IDEALISED: Final = "tandem.idealised_seconds"
IDEALISED_COST: Final = "tandem.idealised_usd"
OWN_SECONDS: Final = "tandem.own_seconds"
QUEUED: Final = "tandem.queued_seconds"
ATTEMPTS: Final = "tandem.attempts"
MODELS: Final = "tandem.models"
MODEL_TOKENS: Final = "tandem.model_tokens"
ANSWERS: Final = "tandem.answers"
WRITTEN: Final = "tandem.written_tokens"
ESTIMATED: Final = "tandem.usage_estimated"

SETTINGS: Final[Mapping[str, str]] = {
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "n": "gen_ai.request.choice.count",
}
"""Fields of a request's body that are recorded: numbers only, never a text."""


def asked(request: Request) -> dict[str, Value]:
    """The numbers that a client set, by their attributes' names."""
    body = request.body
    given = ((name, body[field]) for field, name in SETTINGS.items() if field in body)
    return {name: value for name, value in given if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def address(attempt: AttemptEnded) -> dict[str, Value]:
    """Where an attempt was sent; nothing if no backend could be picked."""
    host, colon, port = attempt.backend.rpartition(":")
    if colon and port.isdigit():
        return {HOST: host, PORT: int(port)}
    return {HOST: attempt.backend} if attempt.backend else {}
