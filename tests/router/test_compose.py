"""Composing: one answer of OpenAI's shape, whatever number of models wrote its text."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from router import sse
from router.compose import Composer
from router.steps import Finished, Surface, Usage
from tests.fleets import attempt, request

SAID = Finished(attempt("small", "a:1"), "length")
USED = Usage(prompt=5, completion=7)
TEXTS = st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=6)


def composed(
    texts: list[str], surface: Surface, *, stream: bool, show_usage: bool = False
) -> list[dict[str, Any]]:
    """The decoded events of a stream, or the one body."""
    composer = Composer(request(surface, body={"stream": stream}), 1_700_000_000)
    parts = [composer.text(text) for text in texts]
    last = composer.end(SAID, USED, show_usage=show_usage)
    if not stream:
        assert not any(parts)
        return [orjson.loads(last)]
    return [orjson.loads(event.data) for part in [*parts, last] for event in sse.read(part)]


@given(TEXTS)
def test_a_streamed_chat_has_one_id_one_role_and_one_finish(texts: list[str]) -> None:
    chunks = composed(texts, Surface.CHAT, stream=True)
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-0123456789abcdef01234567"}
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * len(texts)
    assert "".join(delta.get("content", "") for delta in deltas) == "".join(texts)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * len(texts) + ["length"]
    assert {chunk["model"] for chunk in chunks} == {"auto"}, "what the client asked for"


@given(TEXTS)
def test_a_streamed_completion(texts: list[str]) -> None:
    chunks = composed(texts, Surface.COMPLETIONS, stream=True)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "".join(texts)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "length"


@given(TEXTS)
def test_a_whole_chat(texts: list[str]) -> None:
    (body,) = composed(texts, Surface.CHAT, stream=False)
    answer = ChatCompletion.model_validate(body)
    assert answer.choices[0].message.content == "".join(texts)
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (5, 12)


@given(TEXTS)
def test_a_whole_completion(texts: list[str]) -> None:
    (body,) = composed(texts, Surface.COMPLETIONS, stream=False)
    answer = Completion.model_validate(body)
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text == "".join(texts)


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.COMPLETIONS])
def test_usage_comes_in_a_chunk_of_its_own_if_it_is_asked_for(surface: Surface) -> None:
    *_, last = composed(["7"], surface, stream=True, show_usage=True)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert all("usage" not in chunk for chunk in composed(["7"], surface, stream=True))


def test_without_a_reason_it_stopped() -> None:
    composer = Composer(request(), 0)
    body = orjson.loads(composer.end(Finished(attempt("a", "b")), USED, show_usage=False))
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"]["content"] == ""
