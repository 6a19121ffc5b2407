"""The gateway gives the answers that vLLM gives: the same bytes, on every API and with every field.

Each request is sent twice, to the gateway and to vLLM itself, under one request id, so that even
the ids in the answers agree; only clocks and vLLM's own random ids are taken out of the comparison.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.real_vllm.servers import Json, Server

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

QUESTION = "A shop has 36 pens. It sells 17 and then buys 25 more. How many pens are there now?"
MESSAGES = [{"role": "user", "content": QUESTION}]
CHAT: Json = {
    "model": "small", "messages": MESSAGES, "temperature": 0, "max_tokens": 24,
}  # fmt: skip
COMPLETION: Json = {
    "model": "small", "prompt": QUESTION, "temperature": 0, "max_tokens": 24,
}  # fmt: skip
RESPONSE: Json = {
    "model": "small",
    "input": QUESTION,
    "temperature": 0,
    "max_output_tokens": 24,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["town"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}},
    "required": ["sure"],
    "additionalProperties": False,
}
GUIDED = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA}}
FORCED = {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}}

SAME: Mapping[str, tuple[str, Json]] = {
    "chat": ("chat/completions", CHAT),
    "large": ("chat/completions", CHAT | {"model": "large"}),
    "sampled by seed": ("chat/completions", CHAT | {"temperature": 1.5, "seed": 7}),
    "logprobs": ("chat/completions", CHAT | {"logprobs": True, "top_logprobs": 5}),
    "several choices": ("chat/completions", CHAT | {"n": 3, "temperature": 1, "seed": 3}),
    "stop": ("chat/completions", CHAT | {"stop": ["\n", "="]}),
    "forced tool": ("chat/completions", CHAT | FORCED),
    "offered tool": ("chat/completions", CHAT | {"tools": [WEATHER]}),
    "guided": ("chat/completions", CHAT | {"response_format": GUIDED}),
    "fields of vLLM's own": (
        "chat/completions",
        CHAT | {"return_token_ids": True, "min_tokens": 5, "ignore_eos": True, "top_k": 3},
    ),
    "completion": ("completions", COMPLETION | {"logprobs": 3}),
    "several prompts": ("completions", COMPLETION | {"prompt": ["1 + 1 =", "2 + 2 ="]}),
    "responses": ("responses", RESPONSE),
    "messages": ("messages", CHAT),
    "count_tokens": ("messages/count_tokens", {"model": "small", "messages": MESSAGES}),
    "refused parameter": ("chat/completions", CHAT | {"top_logprobs": 500, "logprobs": True}),
    "too long": ("completions", COMPLETION | {"max_tokens": 1_000_000}),
}


def bare(answer: bytes) -> bytes:
    """`answer` without clocks, random ids, and what the engine still held of an earlier one."""
    changing = (
        rb"created|created_at|completed_at|sequence_number|cached_tokens|created_cache_tokens"
    )
    timeless = re.sub(rb'("(?:' + changing + rb')":)[0-9.]+', rb"\g<1>0", answer)
    return re.sub(rb'("(?:id|call_id|item_id)":)"[^"]*"', rb'\g<1>"x"', timeless)


def both(
    path: str, body: Json, http: httpx.Client, vllm: Server
) -> tuple[httpx.Response, httpx.Response]:
    """The gateway's answer and vLLM's, to the same request under the same id."""
    ours = http.post(f"/v1/{path}", json=body)
    with vllm.client() as client:
        under = {"x-request-id": ours.headers.get("x-request-id", "none")}
        return ours, client.post(f"/v1/{path}", json=body, headers=under)


@pytest.mark.parametrize(("path", "body"), SAME.values(), ids=SAME)
def test_the_same_answer(
    path: str, body: Json, http: httpx.Client, vllms: dict[str, Server]
) -> None:
    ours, theirs = both(path, body, http, vllms[body["model"]])
    assert ours.status_code == theirs.status_code
    assert bare(ours.content) == bare(theirs.content)


# ---------------------------------------------------------------------------------- in streams


def data(raw: bytes) -> Iterator[str]:
    """What the `data:` lines of a stream hold."""
    for line in raw.decode().splitlines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def told(raw: bytes) -> list[Any]:
    """The decoded events of a stream without ids and clocks, its end included."""
    return [e if e == "[DONE]" else json.loads(e) for e in data(bare(raw))]


STREAMS: Mapping[str, tuple[str, Json]] = {
    "chat": ("chat/completions", CHAT),
    "with usage": ("chat/completions", CHAT | {"stream_options": {"include_usage": True}}),
    "logprobs": ("chat/completions", CHAT | {"logprobs": True, "top_logprobs": 2}),
    "forced tool": ("chat/completions", CHAT | FORCED),
    "token ids": ("chat/completions", CHAT | {"return_token_ids": True}),
    "completion": ("completions", COMPLETION),
    "responses": ("responses", RESPONSE),
    "messages": ("messages", CHAT),
}


def _comparable(events: list[Any]) -> list[Any]:
    """`events` without what the gateway adds, and without what it makes vLLM put elsewhere.

    It always asks for usage. Then vLLM's fingerprint is in the chunk of the usage, which a client
    that did not ask for usage does not get.
    """
    for event in events:
        if isinstance(event, dict):
            event.pop("system_fingerprint", None)
            if isinstance(event.get("usage"), dict):
                event["usage"].pop("tandem", None)
    return events


def _whole(events: list[Any]) -> Json:
    """What a chat or completion stream says, however it was cut, which depends on the moment."""
    whole: Json = {}
    for event in events:
        if event != "[DONE]":
            _gather(event, "", whole)
    return whole


def _gather(value: Any, path: str, whole: Json) -> None:
    """Put `value` under its `path` in `whole`, behind what is there where it is a part."""
    name = path.rpartition(".")[2]
    if isinstance(value, dict):
        for key, part in value.items():
            _gather(part, f"{path}.{key}", whole)
    elif name in {"choices", "tool_calls"} and value:
        for part in value:
            _gather(part, f"{path}.{part['index']}", whole)
    elif isinstance(value, list) or name in {"content", "text", "arguments"}:
        if value is not None:
            whole[path] = whole[path] + value if path in whole else value
    elif value is not None:
        whole[path] = value


@pytest.mark.parametrize(("path", "body"), STREAMS.values(), ids=STREAMS)
def test_the_same_stream(path: str, body: Json, http: httpx.Client, small: Server) -> None:
    ours, theirs = both(path, body | {"stream": True}, http, small)
    assert ours.status_code == theirs.status_code == 200
    mine, original = _comparable(told(ours.content)), _comparable(told(theirs.content))
    assert (mine[0], mine[-1]) == (original[0], original[-1])
    if path.endswith("completions"):
        assert _whole(mine) == _whole(original)
    elif len(mine) == len(original):
        assert mine == original
