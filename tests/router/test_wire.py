"""The wire, inward: what becomes a request, and what is refused with which words."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.faults import Blame, Fault, FaultError
from router.steps import Request, Surface
from router.wire import parse

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=5), inner)),
    max_leaves=6,
)
FIELDS = st.sampled_from(["model", "messages", "stream", "stream_options", "user", "session_id"])


def parsed(
    body: Any, surface: Surface = Surface.CHAT, default: str = "auto", **headers: str
) -> Request:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse(surface, raw, named, default, random.Random(7))


def parsed_or_fault(body: Any, surface: Surface) -> Request | Fault:
    """The request, or the fault, which must be the client's."""
    try:
        return parsed(body, surface)
    except FaultError as error:
        fault = error.fault
    assert (fault.blame, fault.status) == (Blame.CLIENT, 400)
    return fault


def test_a_request_is_what_is_routed_on_and_its_own_bytes() -> None:
    raw = b'{ "model":"small", "messages":[],"seed":1.50, "stream":true}'
    asked = parsed(raw)
    assert (asked.target, asked.stream, asked.raw) == ("small", True, raw)
    assert asked.body == {"model": "small", "messages": [], "seed": 1.5, "stream": True}
    assert 0 <= asked.draw < 1


def test_without_a_model_the_default_answers() -> None:
    assert parsed({"messages": []}).target == "auto"


@given(st.sampled_from(Surface), st.one_of(JSON, st.dictionaries(FIELDS, JSON)))
def test_anything_is_a_request_or_the_clients_fault(surface: Surface, body: Any) -> None:
    assert isinstance(parsed_or_fault(body, surface), Request | Fault)


@given(st.binary())
def test_any_bytes_are_a_request_or_the_clients_fault(raw: bytes) -> None:
    assert isinstance(parsed_or_fault(raw, Surface.CHAT), Request | Fault)


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b"{", "the body is not valid JSON: ", None),
        ([], "the body must be a JSON object, not an array", None),
        ({"model": 5}, "model must be a string, not a number", "model"),
        ({"stream": "true"}, "stream must be true or false, not a string", "stream"),
        ({"stream": 1}, "stream must be true or false, not a number", "stream"),
        ({"stream_options": True}, "stream_options must be an object, not a boolean",
         "stream_options"),
        ({}, "messages is missing", "messages"),
        ({"messages": {}}, "messages must be an array, not an object", "messages"),
        ({"messages": [{}, None]}, "messages[1] must be an object, not null", "messages[1]"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_wrong_and_where(body: Any, message: str, param: str | None) -> None:
    with pytest.raises(FaultError) as caught:
        parsed(body)
    assert caught.value.fault.message.startswith(message)
    assert caught.value.fault.param == param


@pytest.mark.parametrize("surface", [Surface.EMBEDDINGS, Surface.RERANK])
def test_some_apis_cannot_stream(surface: Surface) -> None:
    assert not parsed({"stream": True, "input": "?"}, surface).stream


def test_a_conversation_is_known_by_its_header_or_by_its_body() -> None:
    body = {"messages": [], "user": "ann", "prompt_cache_key": "chat-1"}
    assert parsed(body, x_session_id="s-1").session == "s-1"
    assert parsed(body).session == "chat-1"
    assert parsed({"messages": [], "session_id": 5, "user": "ann"}).session == "ann"
    assert parsed({"messages": [], "user": ""}).session is None


def test_only_listed_headers_travel_on() -> None:
    asked = parsed({"messages": []}, traceparent="00-1", authorization="Bearer sk-1")
    assert asked.forwarded == {"traceparent": "00-1"}


def test_who_wrote_what_is_told_if_it_is_asked_and_no_backend_hears_of_it() -> None:
    asked = parsed({"messages": []}, x_tandem_explain="1")
    assert asked.explain
    assert not asked.forwarded
    assert not parsed({"messages": []}, x_tandem_explain="0").explain
    assert not parsed({"messages": []}).explain


def test_every_request_has_an_id_of_its_own() -> None:
    rng = random.Random(7)
    ids = {parse(Surface.CHAT, b'{"messages":[]}', {}, "auto", rng).id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) == len("req-") + 24 for one in ids)


@pytest.mark.parametrize("depth", [252, 260, 1000, 2000, 100_000])
@pytest.mark.parametrize("field", ["messages", "tools", "x"])
def test_a_body_that_could_not_be_written_again_is_refused(field: str, depth: int) -> None:
    """A policy may have to: more levels can be read than written."""
    deep = "[" * depth + "]" * depth
    said = {"messages": "[]", field: f'[{{"content": {deep}}}]'}
    raw = "{" + ", ".join(f'"{name}": {value}' for name, value in said.items()) + "}"
    fault = parsed_or_fault(raw.encode(), Surface.CHAT)
    assert isinstance(fault, Fault)
    assert fault.code == "invalid_json"


def test_a_body_of_many_levels_is_taken() -> None:
    deep = b"[" * 240 + b"]" * 240
    body = parsed(b'{"messages": [], "x": ' + deep + b', "y": [' + b"{}," * 999 + b"{}]}").body
    assert orjson.dumps(body)
