"""Splicing: the result says what it should, and no byte outside the new values has changed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.splice import fields, splice

KEYS = ("model", "stream_options", "logprobs", "messages", 'qu"ote', "sl\\ash", "é", "🚲", "")
SPACES = ("", " ", "\n", "\t", "\r\n  ")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(['"model":', "\\", '\\"', "{[,:]}", '"', "model", 'a "model": "b"']),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=8,
)
CHANGES = st.dictionaries(st.sampled_from(("model", "stream_options", "logprobs", "é")), VALUES)


def written(value: Any, rng: random.Random) -> str:
    """`value` as JSON in an odd hand: white space anywhere, escapes where none is needed."""

    def space() -> str:
        return rng.choice(SPACES)

    match value:
        case dict():
            parts = (
                f"{written(k, rng)}{space()}:{space()}{written(v, rng)}" for k, v in value.items()
            )
            return f"{{{space()}{f'{space()},{space()}'.join(parts)}{space()}}}"
        case list():
            inside = f"{space()},{space()}".join(written(item, rng) for item in value)
            return f"[{space()}{inside}{space()}]"
        case str():
            escape = rng.random() < 0.3
            said = json.dumps(value, ensure_ascii=escape)
            return said.replace("m", "\\u006d") if escape else said
        case _:
            return json.dumps(value)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES), CHANGES, st.integers(0, 1 << 32))
def test_the_result_says_the_same_but_for_the_changes(
    body: dict[str, Any], changes: dict[str, Any], seed: int
) -> None:
    raw = written(body, random.Random(seed)).encode()
    assert json.loads(raw) == body
    assert json.loads(splice(raw, body, changes)) == {**body, **changes}


@given(st.dictionaries(st.sampled_from(KEYS), VALUES), CHANGES, st.integers(0, 1 << 32))
def test_every_byte_outside_the_new_values_stays(
    body: dict[str, Any], changes: dict[str, Any], seed: int
) -> None:
    raw = written(body, random.Random(seed)).encode()
    assert without(splice(raw, body, changes), changes, body) == without(raw, changes, body)


def without(raw: bytes, changes: Mapping[str, Any], body: Mapping[str, Any]) -> bytes:
    """`raw` less the values of the changed fields, and less those that were put in front."""
    pieces, at = [], 0
    for key, start, end in fields(raw):
        if key in changes:
            pieces.append(raw[at:start] if key in body else raw[at:start].partition(b'"')[0])
            at = end if key in body else _past_comma(raw, end)
    return b"".join([*pieces, raw[at:]])


def _past_comma(raw: bytes, at: int) -> int:
    return at + (raw[at : at + 1] == b",")


@given(st.lists(st.tuples(st.sampled_from(("model", "x", "logprobs")), VALUES), min_size=1))
def test_of_a_key_that_stands_twice_both_values_are_replaced(pairs: list[tuple[str, Any]]) -> None:
    raw = ("{" + ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in pairs) + "}").encode()
    new = splice(raw, dict(pairs), {"model": "new"})
    read = json.loads(new, object_pairs_hook=list)
    kept = [(k, "new" if k == "model" else json.loads(json.dumps(v))) for k, v in pairs]
    if "model" not in dict(pairs):
        kept = [("model", "new"), *kept]
    assert [k for k, _ in read] == [k for k, _ in kept]
    assert {v for k, v in read if k == "model"} == {"new"}


@pytest.mark.parametrize(
    ("raw", "new"),
    [
        (b"{}", b'{"model":"b"}'),
        (b" { } ", b' {"model":"b" } '),
        (b'{"model":"a"}', b'{"model":"b"}'),
        (b'{ "model" : "a" , "n" : 1 }', b'{ "model" : "b" , "n" : 1 }'),
        (b'{"n":12345678901234567890.50}', b'{"model":"b","n":12345678901234567890.50}'),
        (b'{"n":1e400,"model":"a"}', b'{"n":1e400,"model":"b"}'),
        (b'{"m\\u006fdel":"a"}', b'{"m\\u006fdel":"b"}'),
        (b'{"model":"a","m\\u006fdel":"a"}', b'{"model":"b","m\\u006fdel":"b"}'),
        (b'{"x":{"model":"a"},"m\\u006fdel":"a"}', b'{"x":{"model":"a"},"m\\u006fdel":"b"}'),
        (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"b"}'),
        (b'{"x":"\\"model\\":","model":"a"}', b'{"x":"\\"model\\":","model":"b"}'),
        (b'{"x":"model","model":"a"}', b'{"x":"model","model":"b"}'),
        (b'{"model":"a\\"b"}', b'{"model":"b"}'),
        (b'{"model":["a",{"b":"c"}],"n":1}', b'{"model":"b","n":1}'),
        (b'{"model":null}', b'{"model":"b"}'),
        ('{"é":"\\/","model":"a"}'.encode(), '{"é":"\\/","model":"b"}'.encode()),
    ],
)
def test_bytes_by_hand(raw: bytes, new: bytes) -> None:
    assert splice(raw, json.loads(raw), {"model": "b"}) == new


def test_nothing_to_change_changes_nothing() -> None:
    raw = b' {"a" : [1.0, 1e3, "\\u00e9"] }\n'
    assert splice(raw, json.loads(raw), {}) == raw


def test_without_bytes_of_a_client_the_body_is_written_anew() -> None:
    assert json.loads(splice(b"", {"a": 1}, {"b": 2})) == {"a": 1, "b": 2}


@pytest.mark.parametrize("inside", ['"' + "x" * 4_000_000 + '"', "[" * 500 + "]" * 500], ids=len)
def test_a_large_body_takes_linear_time(inside: str) -> None:
    raw = f'{{"messages":{inside},"m":"\\u0041","model":"a"}}'.encode()
    body = {"messages": None, "m": "A", "model": "a"}
    began = process_time()
    assert splice(raw, body, {"model": "b"}).endswith(b'"model":"b"}')
    assert process_time() - began < 1.0  # some 10 ms; a second pass per byte would take hours
