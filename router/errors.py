"""Errors as clients know them: a `Fault` becomes a body in the shape of the API it came in by.

The one place where faults become JSON. A backend's own error body is passed on untouched when the
fault is the client's; otherwise the shape is OpenAI's (`error.message`, `type`, `param`, `code`),
or Anthropic's on the surface that speaks it.
"""

from __future__ import annotations

import orjson

from router import sse
from router.faults import Blame, Fault
from router.ledger import Ledger
from router.steps import Surface

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_ANTHROPIC = frozenset({Surface.MESSAGES, Surface.COUNT_TOKENS})


def kind_of(fault: Fault) -> str:
    """The `type` of an error, by its status."""
    if known := _TYPES.get(fault.status):
        return known
    return "invalid_request_error" if fault.blame is Blame.CLIENT else "server_error"


def body_of(fault: Fault, surface: Surface | None = None) -> bytes:
    """The JSON body of an error answer."""
    if fault.body is not None and fault.blame is Blame.CLIENT:
        return fault.body
    error = {"message": fault.message, "type": kind_of(fault)}
    if surface in _ANTHROPIC:
        return orjson.dumps({"type": "error", "error": error})
    return orjson.dumps({"error": {**error, "param": fault.param, "code": fault.code}})


def event_of(body: bytes, ledger: Ledger) -> bytes:
    """An error inside a stream that has begun; nothing follows it, least of all `[DONE]`."""
    named = ledger.request.surface in (Surface.MESSAGES, Surface.RESPONSES)
    line = body.replace(b"\r", b" ").replace(b"\n", b" ")
    return sse.event(line, "error" if named else "")
