"""The wire, inward: a client's bytes become a `Request`, or the fault that says what is wrong.

Only what is routed on is looked at; everything else travels in `raw`. A check is made here only
where a policy or the gateway would trip over the field; the rest is the backend's to judge.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from router.dialect import STREAMING
from router.faults import Blame, Fault, FaultError
from router.steps import Request, Surface

ID_BITS = 96
"""Enough that two ids of a thousand million meet with a chance of 1 in 10**11."""
DEEPEST = 250
"""Levels of a body: orjson reads up to 1024 and writes 254, and a policy may put some around it."""
SESSION_FIELDS = ("prompt_cache_key", "session_id", "user", "safety_identifier")
"""Body fields that name a conversation or its user, tried in this order after `x-session-id`."""

FORWARDED = ("traceparent", "tracestate", "x-session-id")
"""Client headers that backends get to see. An allow-list: no key, no priority, no internal id."""
EXPLAIN = "x-tandem-explain"
"""`1`: the answer tells who wrote what. Between client and gateway; no backend sees it."""
PRIORITY = "x-tandem-priority"
"""`low`: others go first where requests wait. Between client and gateway, like the one above."""
MODEST = "flex"
"""The `service_tier` by which OpenAI's clients ask for less haste; it means low priority here."""
READ = frozenset({*FORWARDED, EXPLAIN, PRIORITY})
"""Client headers that a request is made of."""


def bad(message: str, param: str | None = None, code: str | None = None) -> FaultError:
    """A 400 in OpenAI's terms."""
    return FaultError(Fault(Blame.CLIENT, message, 400, code, param))


def parse(
    surface: Surface,
    raw: bytes,
    headers: Mapping[str, str],
    default: str,
    rng: random.Random,
) -> Request:
    """The request in these bytes. `headers` have lower-case names. Raises `FaultError`."""
    body = _object(raw)
    target = body.get("model")
    if target is None:
        target = default
    if not isinstance(target, str):
        raise bad(f"model must be a string, not {_kind(target)}", "model")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise bad(f"stream must be true or false, not {_kind(stream)}", "stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise bad(f"stream_options must be an object, not {_kind(options)}", "stream_options")
    if surface is Surface.CHAT:
        _check_messages(body.get("messages"))
    return Request(
        surface=surface,
        target=target,
        body=body,
        raw=raw,
        stream=bool(stream) and surface in STREAMING,
        session=_session(body, headers),
        draw=rng.random(),
        id=request_id(rng),
        forwarded={name: headers[name] for name in FORWARDED if name in headers},
        explain=headers.get(EXPLAIN) == "1",
        low=_low(body, headers),
    )


def request_id(rng: random.Random) -> str:
    """A new id. A client's own is never used: it would end up in logs and in backends' paths."""
    return f"req-{rng.getrandbits(ID_BITS):024x}"


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise bad(f"the body must be a JSON object, not {_kind(body)}", code="invalid_json")
    if raw.count(b"[") + raw.count(b"{") > DEEPEST and not _can_be_written(body):
        raise bad(f"the body is nested deeper than {DEEPEST} levels", code="invalid_json")
    return body


def _can_be_written(body: Mapping[str, Any]) -> bool:
    try:
        orjson.dumps([[[[body]]]])
    except orjson.JSONEncodeError:
        return False
    return True


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        problem = "is missing" if messages is None else f"must be an array, not {_kind(messages)}"
        raise bad(f"messages {problem}", "messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise bad(
                f"messages[{number}] must be an object, not {_kind(message)}", f"messages[{number}]"
            )


def _session(body: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    if named := headers.get("x-session-id"):
        return named
    stated = (body.get(name) for name in SESSION_FIELDS)
    return next((value for value in stated if isinstance(value, str) and value), None)


def _low(body: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
    """Whether the client wants others to go first. A body's field is the backend's to check."""
    match headers.get(PRIORITY):
        case None:
            return body.get("service_tier") == MODEST
        case "low" | "high" as named:
            return named == "low"
        case other:
            raise bad(f'{PRIORITY} is "low" or "high", not "{other}"', code="invalid_priority")


def _kind(value: Any) -> str:
    kinds: Sequence[tuple[type, str]] = (
        (bool, "a boolean"),
        (str, "a string"),
        (int, "a number"),
        (float, "a number"),
        (list, "an array"),
        (dict, "an object"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")
