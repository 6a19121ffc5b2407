"""Errors as clients know them: the shape of the API they came by."""

from __future__ import annotations

from time import monotonic

import orjson
import pytest

from router import sse
from router.errors import body_of, event_of, kind_of
from router.faults import Blame, Fault
from router.fleet import Price
from router.ledger import Ledger
from router.steps import Surface
from tests.fleets import request

BROKEN = Fault(Blame.BACKEND, "it broke", 502, "broken")


@pytest.mark.parametrize(
    ("status", "blame", "kind"),
    [
        (400, Blame.CLIENT, "invalid_request_error"),
        (401, Blame.CLIENT, "authentication_error"),
        (404, Blame.CLIENT, "not_found_error"),
        (422, Blame.CLIENT, "invalid_request_error"),
        (429, Blame.CLIENT, "rate_limit_error"),
        (502, Blame.BACKEND, "server_error"),
        (503, Blame.BUSY, "overloaded_error"),
        (504, Blame.GATEWAY, "server_error"),
    ],
)
def test_the_type_follows_from_the_status(status: int, blame: Blame, kind: str) -> None:
    assert kind_of(Fault(blame, "", status)) == kind


def test_openais_shape() -> None:
    fault = Fault(Blame.CLIENT, "no such model", 404, "model_not_found", "model")
    assert orjson.loads(body_of(fault, Surface.CHAT)) == {
        "error": {
            "message": "no such model",
            "type": "not_found_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


@pytest.mark.parametrize("surface", [Surface.MESSAGES, Surface.COUNT_TOKENS])
def test_anthropics_shape(surface: Surface) -> None:
    error = {"message": "it broke", "type": "server_error"}
    assert orjson.loads(body_of(BROKEN, surface)) == {"type": "error", "error": error}


def test_a_backends_own_error_is_passed_on_only_if_the_client_is_to_blame() -> None:
    body = b'{ "object": "error" }'
    assert body_of(Fault(Blame.CLIENT, "", 400, body=body)) == body
    assert body not in body_of(Fault(Blame.BACKEND, "", 502, body=body))


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.MESSAGES, Surface.RESPONSES])
def test_an_error_inside_a_stream_is_one_event_whatever_the_white_space(surface: Surface) -> None:
    ledger = Ledger(request(surface, body={}), "auto", 1, None, monotonic(), Price())
    body = b'{\r\n  "error": {\r"message":\n"it broke"}\r\n}'
    (event,) = sse.read(event_of(body, ledger))
    assert orjson.loads(event.data) == {"error": {"message": "it broke"}}
    assert event.name == ("" if surface is Surface.CHAT else "error")
