"""Dialects: what the APIs of `Surface` look like on the wire, decoded only where someone asks.

Pure functions from decoded JSON to the vocabulary: which text and tokens a chunk carries, what it
says of usage, whether it is an error in disguise, which bytes end a stream. Nothing here changes an
answer; unknown fields are passed over here and passed on elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import orjson

from router.faults import Blame, Fault
from router.steps import Alternative, ScoreApi, Surface, Token, Usage

Json = Mapping[str, Any]

STREAMING = frozenset({Surface.CHAT, Surface.COMPLETIONS, Surface.RESPONSES, Surface.MESSAGES})
"""Surfaces that can stream; on the others `stream` is passed on and the answer is one JSON body."""

OPENAI_STREAMS = frozenset({Surface.CHAT, Surface.COMPLETIONS})
"""Streams that end in `[DONE]` and carry usage in a chunk of its own when asked to."""

SCORED_AT: Mapping[ScoreApi, str] = {
    "score": "/v1/score",
    "classify": "/classify",
    "pooling": "/pooling",
}
"""Where servers tell scores. vLLM also has /score, which its --api-key does not guard."""

_USAGE = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]++|\{[^{}]*+\})*+\})')
"""Nothing in it goes back on what it has read: a long answer without a brace would else cost 140
bytes of memory for each of its own."""
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")
"""At the start of a line: a model may well write these words."""
_LAST_EVENTS = (b'"response.completed"', b'"response.incomplete"', b'"response.failed"')
_ACCOUNT_FAULTS = (401, 403)
LONGEST = 300
"""Characters of a backend's explanation that are told to people."""


class Piece(NamedTuple):
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
    return b"[DONE]" in block and _DONE.search(block) is not None


def usage_in(raw: bytes) -> Usage | None:
    """What a body or a block of events says of usage, without decoding the rest of it."""
    known: Usage | None = None
    for match in _USAGE.finditer(raw):
        try:
            known = merge_usage(known, usage_of(orjson.loads(match[1])))
        except orjson.JSONDecodeError:
            continue
    return known


def usage_of(stated: Json) -> Usage:
    """Usage by either family of names: prompt/completion (OpenAI) or input/output (the others)."""
    details = _object(stated.get("prompt_tokens_details") or stated.get("input_tokens_details"))
    return Usage(
        prompt=_count(stated, "prompt_tokens", "input_tokens"),
        completion=_count(stated, "completion_tokens", "output_tokens"),
        cached=_count(details, "cached_tokens") or _count(stated, "cache_read_input_tokens"),
    )


def _count(stated: Json, *names: str) -> int:
    for name in names:
        if isinstance(value := stated.get(name), int) and value >= 0:
            return int(value)
    return 0


def counted_for(chunk: Json) -> tuple[int, int] | None:
    """The only choice that this chunk is about, and how many tokens it says that one has so far."""
    usage, choices = chunk.get("usage"), chunk.get("choices")
    if not (isinstance(usage, dict) and isinstance(choices, list) and len(choices) == 1):
        return None
    index = _object(choices[0]).get("index", 0)
    return (index, usage_of(usage).completion) if isinstance(index, int) else None


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
            for choice in _objects(chunk.get("choices")):
                yield _choice(choice)
        case Surface.MESSAGES:
            delta = _object(chunk.get("delta"))
            text = _text(delta.get("text")) or _joined(chunk.get("content"))
            reason = _text(chunk.get("stop_reason")) or _text(delta.get("stop_reason"))
            yield Piece(0, text, (), reason or None, None)
        case Surface.RESPONSES:
            grows = chunk.get("type") == "response.output_text.delta"
            text = _text(chunk.get("delta")) if grows else ""
            whole = "".join(_joined(item.get("content")) for item in _objects(chunk.get("output")))
            yield Piece(0, text or whole, (), _text(chunk.get("status")) or None, None)
        case _:
            yield Piece(0, "", (), None, None)


def _choice(choice: Json) -> Piece:
    logprobs = choice.get("logprobs")
    if "text" in choice:
        text = _text(choice["text"])
        tokens = _legacy_tokens(_object(logprobs)) if logprobs else ()
    else:
        message = _object(choice.get("delta") or choice.get("message"))
        text = _text(message.get("content"))
        tokens = _tokens(_object(logprobs)) if logprobs else ()
    if ids := choice.get("token_ids"):
        tokens = _numbered(tokens, _list(ids))
    stopped = choice.get("stop_reason")
    return Piece(
        _whole(choice.get("index")) or 0,
        text,
        tuple(tokens),
        _text(choice.get("finish_reason")) or None,
        stopped if isinstance(stopped, str) else _whole(stopped),
    )


def _numbered(tokens: Sequence[Token], stated: Sequence[Any]) -> Sequence[Token]:
    """These tokens with their ids; tokens of the ids alone if nothing else is known of them."""
    if not tokens:
        return [Token("", _whole(number)) for number in stated]
    if len(stated) != len(tokens):
        return tokens
    return [
        Token(token.text, _whole(number), token.logprob, token.top)
        for token, number in zip(tokens, stated, strict=True)
    ]


def _tokens(logprobs: Json) -> Sequence[Token]:
    return [
        Token(
            text=_text(entry.get("token")),
            logprob=_number(entry.get("logprob")),
            top=_alternatives(
                (top.get("token"), top.get("logprob"))
                for top in _objects(entry.get("top_logprobs"))
            ),
        )
        for entry in _objects(logprobs.get("content"))
    ]


def _legacy_tokens(logprobs: Json) -> Sequence[Token]:
    texts, values = _list(logprobs.get("tokens")), _list(logprobs.get("token_logprobs"))
    tops = _list(logprobs.get("top_logprobs"))
    return [
        Token(_text(text), None, _number(value), _alternatives(_object(top).items()))
        for text, value, top in zip_longest(texts, values[: len(texts)], tops[: len(texts)])
    ]


def _alternatives(stated: Iterable[tuple[Any, Any]]) -> tuple[Alternative, ...]:
    known = ((_text(text), _number(value)) for text, value in stated)
    return tuple(Alternative(text, value) for text, value in known if value is not None)


def _joined(parts: Any) -> str:
    return "".join(_text(part.get("text")) for part in _objects(parts))


# A backend may send anything. What is not of the kind that its place wants counts as not there;
# these are the only ways in which a chunk is looked into.


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _objects(value: Any) -> Iterator[Json]:
    return (item for item in _list(value) if isinstance(item, dict))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


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
    code = _whole(stated.get("code")) or 0
    status = code if 400 <= code < 600 else 500
    message = str(stated.get("message") or error or "the backend reported an error")[:LONGEST]
    return fault_of(status, message, orjson.dumps(chunk))


def fault_of(status: int, message: str, body: bytes) -> Fault:
    """Whose fault an upstream status is.

    429 and 503 are a full backend (vLLM answers 503 when its queue is full): busy. 401 and 403 are
    about the gateway's own key, 408 and 5xx about the backend. Any other 4xx is the client's, and
    its body travels on untouched, unless it is no JSON object (a proxy's page, say).
    """
    if status in (429, 503):
        return Fault(Blame.BUSY, message, 503, "overloaded", retry_after=1.0, quotes=True)
    if status in _ACCOUNT_FAULTS:
        return Fault(
            Blame.BACKEND, f"the backend refused the gateway's own key ({status})", 502, "bad_key"
        )
    if 400 <= status < 500 and status != 408:
        stated = body if _is_object(body) else None
        return Fault(Blame.CLIENT, message, status, body=stated, quotes=True)
    said = f"the backend answered {status}: {message}"
    return Fault(Blame.BACKEND, said, 502, "backend_error", quotes=True)


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(orjson.loads(body), dict)
    except orjson.JSONDecodeError:
        return False


def message_in(body: bytes) -> str:
    """The human part of an error body, whatever its shape; at most `LONGEST` characters."""
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:LONGEST].decode(errors="replace").strip() or "no explanation"
    stated = decoded.get("error", decoded) if isinstance(decoded, dict) else decoded
    if isinstance(stated, dict):
        stated = stated.get("message") or stated.get("detail") or stated
    return str(stated)[:LONGEST]
