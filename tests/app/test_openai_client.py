"""The official `openai` client as a conformance test: what it sends arrives, what comes is read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.conftest import Started
from tests.running import Running, config
from tests.scripted import (
    DONE,
    Backend,
    answers,
    chat_answer,
    chat_events,
    chunk,
    event,
    hangs_up,
    logprobs,
    stalls,
    streams,
    usage,
    usage_event,
)

ASKED: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be short."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        ],
    },
]
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}


@pytest.fixture
async def running(gateway: Started, small: Backend) -> Running:
    policies = {"auto": {"use": "direct", "model": "small"}}
    return await gateway(config({"small": small}, policies=policies))


@pytest.fixture
async def api(running: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{running.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


class Verdict(BaseModel):
    sure: bool


async def test_a_chat_with_everything(
    api: openai.AsyncOpenAI, running: Running, small: Backend
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    said = {"message": {"role": "assistant", "content": None, "tool_calls": [call]}}
    answer = chat_answer(said={**said, "logprobs": logprobs(-0.5), "finish_reason": "tool_calls"})
    answer["choices"] *= 2
    small.plays(answers({**answer, "system_fingerprint": "fp", "kv_transfer_params": {"a": 1}}))
    got = await api.chat.completions.create(
        model="small",
        messages=ASKED,
        tools=[TOOL],
        tool_choice="auto",
        logprobs=True,
        top_logprobs=5,
        n=2,
        stop=["\n", "END"],
        seed=7,
        temperature=0.25,
        max_tokens=64,
        logit_bias={"50256": -100},
        metadata={"k": "v"},
        extra_body={"top_k": 3, "vllm_xargs": {"a": [1.5]}, "return_token_ids": True},
    )
    sent = small.calls[0].json
    assert sent["messages"] == ASKED
    assert sent["tools"] == [TOOL]
    assert {name: sent[name] for name in ("n", "stop", "seed", "top_logprobs", "top_k")} == {
        "n": 2, "stop": ["\n", "END"], "seed": 7, "top_logprobs": 5, "top_k": 3,
    }  # fmt: skip
    assert sent["vllm_xargs"] == {"a": [1.5]}
    assert "stream_options" not in sent
    assert len(got.choices) == 2
    assert got.choices[0].message.tool_calls is not None
    assert got.choices[0].message.tool_calls[0].id == "call_1"
    assert got.choices[0].logprobs is not None
    assert got.choices[0].logprobs.content is not None
    assert got.choices[0].logprobs.content[0].logprob == -0.5
    assert got.model_extra == {"kv_transfer_params": {"a": 1}}
    assert got._request_id == small.calls[0].headers["x-request-id"]


async def test_a_parsed_answer(api: openai.AsyncOpenAI, running: Running, small: Backend) -> None:
    small.plays(answers(chat_answer('{"sure": true}')))
    got = await api.chat.completions.parse(model="small", messages=ASKED, response_format=Verdict)
    assert got.choices[0].message.parsed == Verdict(sure=True)
    assert small.calls[0].json["response_format"]["json_schema"]["name"] == "Verdict"


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_with_and_without_usage(
    api: openai.AsyncOpenAI, running: Running, small: Backend, asked: bool
) -> None:
    small.plays(streams(*chat_events(["Hel", "lo"])))
    options: Any = {"stream_options": {"include_usage": asked}} if asked else {}
    stream = await api.chat.completions.create(
        model="small", messages=ASKED, stream=True, **options
    )
    chunks = [said async for said in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello"
    assert chunks[-1 if not asked else -2].choices[0].finish_reason == "stop"
    counted = [said.usage for said in chunks if said.usage]
    assert len(counted) == asked
    if asked:
        assert counted[0].completion_tokens == 2
        assert counted[0].model_extra is not None
        assert counted[0].model_extra["tandem"]["models"] == {"small": 2}


async def test_tools_and_logprobs_in_a_stream(
    api: openai.AsyncOpenAI, running: Running, small: Backend
) -> None:
    part = {"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": '{"to'}}
    rest = {"index": 0, "function": {"arguments": 'wn": "Rome"}'}}
    small.plays(
        streams(
            chunk({"role": "assistant", "tool_calls": [part]}, logprobs=logprobs(-0.25)),
            chunk({"tool_calls": [rest], "reasoning_content": "hm"}),
            chunk({}, "tool_calls"),
            usage_event(),
            DONE,
        )
    )
    async with api.chat.completions.stream(
        model="small", messages=ASKED, tools=[TOOL], logprobs=True
    ) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.arguments == '{"town": "Rome"}'
    assert final.choices[0].logprobs is not None


async def test_the_other_apis(api: openai.AsyncOpenAI, running: Running, small: Backend) -> None:
    completion = {
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "small",
        "choices": [{"index": 0, "text": " 7", "finish_reason": "stop", "logprobs": None}],
        "usage": usage(),
    }  # fmt: skip
    vector = {"object": "embedding", "index": 0, "embedding": "AACAPwAAAEA="}
    embedding = {
        "object": "list", "model": "small", "data": [vector],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }  # fmt: skip
    text = {"type": "output_text", "text": "Hi", "annotations": []}
    message = {
        "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
        "content": [text],
    }  # fmt: skip
    response = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "small", "error": None,
        "status": "completed", "output": [message], "parallel_tool_calls": True, "tools": [],
        "tool_choice": "auto",
        "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
    }  # fmt: skip
    small.plays(
        answers(completion),
        streams(event(completion), DONE),
        answers(embedding),
        answers(response),
        streams(
            b"event: response.completed\n"
            + event({"type": "response.completed", "sequence_number": 0, "response": response})
        ),
    )
    assert (await api.completions.create(model="small", prompt="3 + 4 =")).choices[0].text == " 7"
    pieces = await api.completions.create(model="small", prompt=[1, 2, 3], stream=True)
    assert [piece.choices[0].text async for piece in pieces] == [" 7"]
    vectors = await api.embeddings.create(model="small", input=["a"])
    assert vectors.data[0].embedding == [1.0, 2.0]
    assert (await api.responses.create(model="small", input="hi")).output_text == "Hi"
    events = await api.responses.create(model="small", input="hi", stream=True)
    assert [said.type async for said in events] == ["response.completed"]
    assert (await running.ended(5)).blame is None


async def test_models_are_listed_and_retrieved(
    api: openai.AsyncOpenAI, running: Running, small: Backend
) -> None:
    assert {model.id async for model in api.models.list()} == {"auto", "small"}
    assert (await api.models.retrieve("auto")).owned_by == "tandem"
    with pytest.raises(openai.NotFoundError) as caught:
        await api.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (answers({"error": {"message": "too long", "code": 400}}, 400), openai.BadRequestError),
        (answers({"error": {"message": "no such"}}, 404), openai.NotFoundError),
        (answers({"error": {"message": "cannot"}}, 422), openai.UnprocessableEntityError),
        (answers({"error": {"message": "dead"}}, 500), openai.InternalServerError),
        (answers({"error": {"message": "full"}}, 503), openai.InternalServerError),
        (answers({"error": {"message": "our key"}}, 401), openai.InternalServerError),
        (hangs_up, openai.InternalServerError),
    ],
)
async def test_errors_have_the_clients_classes(
    api: openai.AsyncOpenAI,
    running: Running,
    small: Backend,
    script: Any,
    kind: type[openai.APIStatusError],
) -> None:
    small.plays(script)
    for stream in (False, True):
        with pytest.raises(kind) as caught:
            await api.chat.completions.create(
                model="small", messages=ASKED, stream=cast("Any", stream)
            )
        assert type(caught.value) is kind
        assert caught.value.request_id
        assert caught.value.body


async def test_an_unknown_model_is_not_found(
    api: openai.AsyncOpenAI, running: Running, small: Backend
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await api.chat.completions.create(model="gpt-4o", messages=ASKED)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_an_error_in_the_stream_is_raised(
    api: openai.AsyncOpenAI, running: Running, small: Backend
) -> None:
    small.plays(streams(chunk({"content": "Hel"})))
    stream = await api.chat.completions.create(model="small", messages=ASKED, stream=True)
    with pytest.raises(openai.APIError) as caught:
        _ = [said async for said in stream]
    assert caught.value.code == "truncated"


async def test_a_client_that_closes_its_stream(
    api: openai.AsyncOpenAI, running: Running, small: Backend
) -> None:
    small.plays(stalls(chunk({"content": "Hel"})))
    stream = await api.chat.completions.create(model="small", messages=ASKED, stream=True)
    assert (await anext(aiter(stream))).choices[0].delta.content == "Hel"
    await stream.close()
    assert (await running.ended()).status == 499
    assert running.in_flight() == 0


async def test_a_client_that_retries_is_told_when(
    api: openai.AsyncOpenAI, running: Running, small: Backend
) -> None:
    full = answers(json.dumps({"error": {"message": "full"}}).encode(), 503)
    small.plays(full, answers(chat_answer()))
    patient = api.with_options(max_retries=1)
    got = await patient.chat.completions.create(model="small", messages=ASKED)
    assert got.choices[0].message.content == "Hello"
    assert len(small.calls) == 2
