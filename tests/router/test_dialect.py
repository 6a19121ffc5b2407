"""Dialects: what real servers say is understood, and what a lying one says does no harm."""

from __future__ import annotations

import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dialect import (
    LONGEST,
    ends_stream,
    error_in,
    fault_of,
    merge_usage,
    message_in,
    pieces,
    usage_in,
    usage_of,
)
from router.faults import Blame
from router.steps import Alternative, Surface, Token, Usage

WORDS = st.sampled_from(
    """choices delta message content text logprobs top_logprobs tokens token_logprobs token logprob
    index finish_reason stop_reason token_ids usage prompt_tokens completion_tokens error code type
    prompt_tokens_details cached_tokens output status object response.output_text.delta""".split()  # noqa: SIM905  # a list of thirty lines says no more
)
ODD = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 700), st.floats(-9, 9), st.text(max_size=3)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=5)),
    max_leaves=12,
)
OBJECTS = st.dictionaries(WORDS, ODD, max_size=6)
CHAT_LIKE = st.fixed_dictionaries(
    {"choices": st.lists(st.one_of(ODD, st.dictionaries(WORDS, ODD)), max_size=2)}
)


@given(st.sampled_from(Surface), st.one_of(OBJECTS, CHAT_LIKE))
def test_no_chunk_does_harm_and_what_is_read_is_of_its_kind(
    surface: Surface, chunk: dict[str, Any]
) -> None:
    for piece in pieces(surface, chunk):
        assert type(piece.choice) is int
        assert isinstance(piece.text, str)
        assert piece.finish_reason is None or isinstance(piece.finish_reason, str)
        assert piece.stop_reason is None or type(piece.stop_reason) in (int, str)
        for token in piece.tokens:
            assert isinstance(token.text, str)
            assert token.id is None or type(token.id) is int
            assert token.logprob is None or isinstance(token.logprob, int | float)
            for other in token.top:
                assert isinstance(other.text, str)
                assert isinstance(other.logprob, int | float)


@given(st.one_of(ODD, OBJECTS))
def test_no_error_and_no_usage_does_harm(chunk: Any) -> None:
    if fault := error_in(chunk):
        assert 400 <= fault.status < 600
        assert len(fault.message) < LONGEST + 100
    if isinstance(chunk, dict):
        assert min(vars_of(usage_of(chunk))) >= 0
    usage_in(orjson.dumps({"usage": chunk}))
    assert len(message_in(orjson.dumps(chunk))) <= LONGEST


def vars_of(usage: Usage) -> tuple[int, int, int]:
    return usage.prompt, usage.completion, usage.cached


@given(st.binary())
def test_no_bytes_do_harm(body: bytes) -> None:
    assert len(message_in(body)) <= LONGEST
    usage_in(b'"usage":' + body)
    for surface in Surface:
        ends_stream(surface, body)


# --------------------------------------------------------------------------------- text and tokens


def chat(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, **choice}]}


def test_a_chat_chunk_with_log_probabilities_and_ids() -> None:
    entry = {
        "token": "7",
        "logprob": -0.1,
        "top_logprobs": [{"token": "7", "logprob": -0.1}, {"token": "8", "logprob": -3}],
    }
    chunk = chat(delta={"content": "7"}, logprobs={"content": [entry]}, token_ids=[22])
    (piece,) = pieces(Surface.CHAT, chunk)
    tops = (Alternative("7", -0.1), Alternative("8", -3))
    assert piece.text == "7"
    assert piece.tokens == (Token("7", 22, -0.1, tops),)


def test_ids_without_log_probabilities_are_tokens_without_text() -> None:
    (piece,) = pieces(Surface.CHAT, chat(delta={"content": "ab"}, token_ids=[1, 2]))
    assert piece.tokens == (Token("", 1), Token("", 2))


def test_a_legacy_completion() -> None:
    stated = {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {"b": -0.5, "c": -1.5}],
    }
    chunk = {"choices": [{"text": "ab", "logprobs": stated, "finish_reason": "length"}]}
    (piece,) = pieces(Surface.COMPLETIONS, chunk)
    assert piece.tokens[0] == Token("a")
    assert piece.tokens[1].top == (Alternative("b", -0.5), Alternative("c", -1.5))
    assert piece.finish_reason == "length"


def test_log_probabilities_that_are_too_few_cost_no_text() -> None:
    stated = {"tokens": ["a", "b"], "token_logprobs": [-1.0]}
    (piece,) = pieces(Surface.COMPLETIONS, {"choices": [{"text": "ab", "logprobs": stated}]})
    assert piece.tokens == (Token("a", None, -1.0), Token("b"))


def test_a_whole_chat_answer_and_its_choices() -> None:
    answer = {
        "choices": [
            {"index": 0, "message": {"content": "a"}, "finish_reason": "stop", "stop_reason": 7},
            {"index": 1, "message": {"content": None}, "finish_reason": "tool_calls"},
        ]
    }
    first, second = pieces(Surface.CHAT, answer)
    assert (first.text, first.finish_reason, first.stop_reason) == ("a", "stop", 7)
    assert (second.choice, second.text) == (1, "")


@pytest.mark.parametrize(
    ("chunk", "text", "reason"),
    [
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}, "a", None),
        ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, "", "end_turn"),
        (
            {"content": [{"text": "a"}, {"text": "b"}], "stop_reason": "max_tokens"},
            "ab",
            "max_tokens",
        ),
    ],
)
def test_messages(chunk: dict[str, Any], text: str, reason: str | None) -> None:
    (piece,) = pieces(Surface.MESSAGES, chunk)
    assert (piece.text, piece.finish_reason) == (text, reason)


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        ({"type": "response.output_text.delta", "delta": "a"}, "a"),
        ({"type": "response.function_call_arguments.delta", "delta": "{"}, ""),
        ({"status": "completed", "output": [{"content": [{"text": "a"}]}, {"content": None}]}, "a"),
    ],
)
def test_responses(chunk: dict[str, Any], text: str) -> None:
    (piece,) = pieces(Surface.RESPONSES, chunk)
    assert piece.text == text


# ----------------------------------------------------------------------------------- ends and usage


@pytest.mark.parametrize(
    ("surface", "block", "ends"),
    [
        (Surface.CHAT, b"data: [DONE]\n\n", True),
        (Surface.CHAT, b'data: {"choices":[]}\n\ndata: [DONE]\n\n', True),
        (Surface.CHAT, b'data: {"choices":[]}\r\rdata:[DONE]\r\r', True),
        (Surface.CHAT, b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n', False),
        (Surface.CHAT, b'data: {"choices":[{"delta":{"content":"\\ndata: [DONE]"}}]}\n\n', False),
        (Surface.MESSAGES, b'event: message_stop\ndata: {"type":"message_stop"}\n\n', True),
        (Surface.MESSAGES, b'data: {"delta":{"text":"\\"message_stop\\""}}\n\n', False),
        (Surface.RESPONSES, b'data: {"type":"response.completed"}\n\n', True),
        (Surface.RESPONSES, b'data: {"type":"response.failed"}\n\n', True),
        (Surface.RESPONSES, b'data: {"type":"response.output_text.done"}\n\n', False),
    ],
)
def test_the_end_of_a_stream_is_not_what_a_model_writes_about_it(
    surface: Surface, block: bytes, *, ends: bool
) -> None:
    assert ends_stream(surface, block) is ends


@pytest.mark.parametrize(
    ("stated", "usage"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7}, Usage(5, 7)),
        ({"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 3}, Usage(5, 7, 3)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(5, 0, 4)),
        ({"prompt_tokens": -5, "completion_tokens": "7", "prompt_tokens_details": "?"}, Usage()),
    ],
)
def test_usage_by_either_family_of_names(stated: dict[str, Any], usage: Usage) -> None:
    assert usage_in(orjson.dumps({"id": "a", "usage": stated, "b": None})) == usage


def test_the_last_usage_counts() -> None:
    assert usage_in(
        b'data: {"usage":{"prompt_tokens":1}}\n\ndata: {"usage" : {"prompt_tokens":2}}'
    ) == (Usage(2))
    assert usage_in(b'{"choices":[],"usage":null}') is None


def test_an_answer_that_never_closes_its_usage_costs_no_more_than_its_own_bytes() -> None:
    answer = b'{"usage":{' + b"a" * (1 << 20)
    tracemalloc.start()
    try:
        assert usage_in(answer) is None
        assert tracemalloc.get_traced_memory()[1] < len(answer)
    finally:
        tracemalloc.stop()


def test_usage_in_halves_is_put_together() -> None:
    assert merge_usage(Usage(5, 1), Usage(0, 9)) == Usage(5, 9)
    assert merge_usage(None, Usage(1)) == Usage(1)


# -------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("status", "blame", "told"),
    [
        (400, Blame.CLIENT, 400),
        (404, Blame.CLIENT, 404),
        (422, Blame.CLIENT, 422),
        (401, Blame.BACKEND, 502),
        (403, Blame.BACKEND, 502),
        (408, Blame.BACKEND, 502),
        (429, Blame.BUSY, 503),
        (500, Blame.BACKEND, 502),
        (503, Blame.BUSY, 503),
        (504, Blame.BACKEND, 502),
    ],
)
def test_whose_fault_a_status_is(status: int, blame: Blame, told: int) -> None:
    fault = fault_of(status, "so it is", b"{}")
    assert (fault.blame, fault.status) == (blame, told)
    assert (fault.body is not None) == (blame is Blame.CLIENT)


@pytest.mark.parametrize("page", [b"<html>Not Found</html>", b"", b"[]", b'"no"'])
def test_a_page_that_is_no_object_does_not_travel_on_as_json(page: bytes) -> None:
    assert fault_of(404, message_in(page), page).body is None


@pytest.mark.parametrize(
    ("chunk", "status", "message"),
    [
        ({"error": {"message": "bad", "code": 400}}, 400, "bad"),
        ({"error": "out of memory"}, 502, "the backend answered 500: out of memory"),
        ({"object": "error", "message": "bad", "code": 422}, 422, "bad"),
        ({"type": "error", "error": {"message": "busy", "code": 503}}, 503, "busy"),
        ({"error": {"code": "oops"}}, 502, "the backend answered 500: {'code': 'oops'}"),
    ],
)
def test_an_error_in_disguise(chunk: dict[str, Any], status: int, message: str) -> None:
    fault = error_in(chunk)
    assert fault
    assert (fault.status, fault.message) == (status, message)


@pytest.mark.parametrize("chunk", [{"error": None}, {"choices": []}, [], None, {"error": {}}])
def test_no_error(chunk: Any) -> None:
    assert error_in(chunk) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"bad"}}', "bad"),
        (b'{"detail":"bad"}', "bad"),
        (b'{"error":"bad"}', "bad"),
        (b"bad\n", "bad"),
        (b"", "no explanation"),
    ],
)
def test_the_human_part_of_an_error(body: bytes, message: str) -> None:
    assert message_in(body) == message
