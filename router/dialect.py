"""Dialects: what the APIs of `Surface` look like on the wire, decoded only where someone asks.

Pure functions from decoded JSON to the vocabulary: which text and tokens a chunk carries, what it
says of usage, whether it is an error in disguise, which bytes end a stream. Nothing here changes an
answer; unknown fields are passed over here and passed on elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from router.faults import Blame, Fault
from router.steps import Alternative, Surface, Token, Usage

Json = Mapping[str, Any]

STREAMING = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.MESSAGES})
"""Surfaces that can stream; on the others `stream` is passed on and the answer is one JSON body."""

OPENAI_STREAMS = frozenset({Surface.CHAT, Surface.COMPLETIONS})
"""Streams that end in `[DONE]` and carry usage in a chunk of its own when asked to."""

_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')
_LAST_EVENTS = (b'"response.completed"', b'"response.incomplete"', b'"response.failed"')
_ACCOUNT_FAULTS = (401, 403)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk adds to one choice."""

    choice: int
    text: str
    tokens: tuple[Token, ...]
    finish_reason: str | None
    stop_reason: int | str | None


def ends_stream(surface: Surface, block: bytes) -> bool:
    """Whether this block of events holds the one after which nothing more comes."""
    if surface is Surface.MESSAGES:
        return b'"message_stop"' in block
    if surface is Surface.RESPONSES:
        return any(name in block for name in _LAST_EVENTS)
    return b"data: [DONE]" in block or b"data:[DONE]" in block


def usage_in(raw: bytes) -> Usage | None:
    """The last usage that a body or a block of events states, without decoding the rest of it."""
    at = raw.rfind(b'"usage"')
    match = _USAGE.match(raw, at) if at >= 0 else None
    if match is None:
        return None
    try:
        return usage_of(orjson.loads(match[1]))
    except orjson.JSONDecodeError:
        return None


def usage_of(stated: Json) -> Usage:
    """Usage by either family of names: prompt/completion (OpenAI) or input/output (the others)."""
    details = stated.get("prompt_tokens_details") or stated.get("input_tokens_details") or {}
    return Usage(
        prompt=_count(stated, "prompt_tokens", "input_tokens"),
        completion=_count(stated, "completion_tokens", "output_tokens"),
        cached=_count(details, "cached_tokens") or _count(stated, "cache_read_input_tokens"),
    )


def _count(stated: Json, *names: str) -> int:
    for name in names:
        if isinstance(value := stated.get(name), int):
            return value
    return 0


def merge_usage(known: Usage | None, stated: Usage) -> Usage:
    """Usage is stated cumulatively, and `/v1/messages` states its halves apart: keep the larger."""
    if known is None:
        return stated
    return Usage(
        max(known.prompt, stated.prompt),
        max(known.completion, stated.completion),
        max(known.cached, stated.cached),
    )


# ----------------------------------------------------------------------------- text and tokens


def pieces(surface: Surface, chunk: Json) -> Iterator[Piece]:
    """What one decoded chunk of a stream, or one whole answer, says."""
    match surface:
        case Surface.CHAT | Surface.COMPLETIONS:
            for choice in chunk.get("choices") or ():
                yield _choice(choice)
        case Surface.MESSAGES:
            text = (chunk.get("delta") or {}).get("text") or _joined(chunk.get("content"))
            reason = chunk.get("stop_reason") or (chunk.get("delta") or {}).get("stop_reason")
            yield Piece(0, text, (), reason, None)
        case Surface.RESPONSES:
            delta = chunk.get("delta") if chunk.get("type") == "response.output_text.delta" else ""
            whole = "".join(_joined(item.get("content")) for item in chunk.get("output") or ())
            yield Piece(0, delta or whole, (), chunk.get("status"), None)
        case _:
            yield Piece(0, "", (), None, None)


def _joined(parts: Any) -> str:
    if not isinstance(parts, list):
        return ""
    return "".join(str(p.get("text") or "") for p in parts if isinstance(p, dict))


def _choice(choice: Json) -> Piece:
    if "text" in choice:
        text, tokens = choice["text"] or "", _legacy_tokens(choice.get("logprobs"))
    else:
        message = choice.get("delta") or choice.get("message") or {}
        text, tokens = message.get("content") or "", _tokens(choice.get("logprobs"))
    ids = choice.get("token_ids") or ()
    if len(ids) == len(tokens):
        tokens = [Token(t.text, i, t.logprob, t.top) for t, i in zip(tokens, ids, strict=True)]
    elif not tokens:
        tokens = [Token("", i) for i in ids]
    return Piece(
        choice.get("index") or 0,
        text,
        tuple(tokens),
        choice.get("finish_reason"),
        choice.get("stop_reason"),
    )


def _tokens(logprobs: Json | None) -> Sequence[Token]:
    return [
        Token(
            text=entry["token"],
            logprob=entry["logprob"],
            top=tuple(
                Alternative(top["token"], top["logprob"]) for top in entry.get("top_logprobs") or ()
            ),
        )
        for entry in (logprobs or {}).get("content") or ()
    ]


def _legacy_tokens(logprobs: Json | None) -> Sequence[Token]:
    if not logprobs:
        return []
    texts, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    return [
        Token(text, None, value, tuple(Alternative(t, v) for t, v in (top or {}).items()))
        for text, value, top in zip(texts, values, tops, strict=False)
    ]


# -------------------------------------------------------------------------------------- errors


def error_in(chunk: Any) -> Fault | None:
    """The fault that a 200 answer or a stream's event confesses to, if it does."""
    if not isinstance(chunk, dict):
        return None
    error = chunk.get("error")
    failed = chunk.get("type") == "error" or chunk.get("object") == "error"
    if not error and not failed:
        return None
    stated = error if isinstance(error, dict) else chunk
    code = stated.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    message = str(stated.get("message") or error or "the backend reported an error")
    return fault_of(status, message, orjson.dumps(chunk))


def fault_of(status: int, message: str, body: bytes) -> Fault:
    """Whose fault an upstream status is.

    429 and 503 are a full backend (vLLM answers 503 when its queue is full): busy. 401 and 403 are
    about the gateway's own key, 408 and 5xx about the backend. Any other 4xx is the client's, and
    its body travels on untouched.
    """
    if status in (429, 503):
        return Fault(Blame.BUSY, message, 503, "overloaded", retry_after=1.0)
    if status in _ACCOUNT_FAULTS:
        return Fault(
            Blame.BACKEND, f"the backend refused the gateway's own key ({status})", 502, "bad_key"
        )
    if 400 <= status < 500 and status != 408:
        return Fault(Blame.CLIENT, message, status, body=body)
    return Fault(Blame.BACKEND, f"the backend answered {status}: {message}", 502, "backend_error")


def message_in(body: bytes) -> str:
    """The human part of an error body, whatever its shape; at most 300 characters."""
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:300].decode(errors="replace").strip() or "no explanation"
    stated = decoded.get("error", decoded) if isinstance(decoded, dict) else decoded
    if isinstance(stated, dict):
        stated = stated.get("message") or stated.get("detail") or stated
    return str(stated)[:300]
