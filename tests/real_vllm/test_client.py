"""The official client against the gateway in front of vLLM: what its users will do first."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.real_vllm.servers import Gateway, Server

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "There are 12 boxes with 7 pens each. How many pens are there?"}
]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["town"],
            "additionalProperties": False,
        },
    },
}


class Verdict(BaseModel):
    sure: bool


def test_models(api: openai.OpenAI) -> None:
    names = {model.id for model in api.models.list()}
    assert {"small", "large", "careful", "turned"} <= names
    assert api.models.retrieve("small").id == "small"


def test_chat(api: openai.OpenAI) -> None:
    answer = api.chat.completions.with_raw_response.create(model="large", messages=MESSAGES)
    chat = answer.parse()
    assert chat.choices[0].message.content
    assert chat.usage is not None
    assert answer.headers["x-tandem-models"] == f"large={chat.usage.completion_tokens}"


def test_stream_with_usage(api: openai.OpenAI) -> None:
    stream = api.chat.completions.create(
        model="small",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=16,
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert [c.usage.completion_tokens for c in chunks if c.usage] == [16]


def test_logprobs_and_choices(api: openai.OpenAI) -> None:
    chat = api.chat.completions.create(
        model="small", messages=MESSAGES, n=2, logprobs=True, top_logprobs=3, max_tokens=8
    )
    assert [choice.index for choice in chat.choices] == [0, 1]
    for choice in chat.choices:
        assert choice.logprobs is not None
        assert all(len(token.top_logprobs) == 3 for token in choice.logprobs.content or [])


def test_forced_tool(api: openai.OpenAI, terse: dict[str, int]) -> None:
    chat = api.chat.completions.create(
        model="small",
        messages=MESSAGES,
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        logit_bias=terse,
        temperature=0,
    )
    calls = chat.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "weather"
    assert json.loads(calls[0].function.arguments)["town"] in ("Rome", "Oslo")


def test_guided_answer(api: openai.OpenAI, terse: dict[str, int]) -> None:
    chat = api.chat.completions.parse(
        model="small", messages=MESSAGES, response_format=Verdict, logit_bias=terse, temperature=0
    )
    assert isinstance(chat.choices[0].message.parsed, Verdict)


def test_responses(api: openai.OpenAI) -> None:
    answer = api.responses.create(model="small", input="How much is 2 + 2?", max_output_tokens=16)
    assert answer.usage is not None
    assert answer.usage.output_tokens > 0


def test_completion_of_token_ids(api: openai.OpenAI, small: Server) -> None:
    with small.client() as client:
        asked = {"model": "small", "messages": MESSAGES}
        ids: list[int] = client.post("/tokenize", json=asked).json()["tokens"]
    answer = api.completions.create(
        model="small",
        prompt=ids,
        max_tokens=8,
        temperature=0,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    choice = answer.choices[0].model_dump()
    assert choice["prompt_token_ids"] == ids
    assert len(choice["token_ids"]) == 8


def test_vllms_own_refusal(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        api.chat.completions.create(model="small", messages=MESSAGES, max_tokens=1_000_000)


def test_an_api_that_vllm_does_not_serve(api: openai.OpenAI) -> None:
    """A generating model has no embeddings: whoever says so, it is a client's error."""
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        api.embeddings.create(model="small", input="pens")


def test_readiness(http: httpx.Client, tandem: Gateway) -> None:
    assert http.get("/readyz").json()["status"] == "ready"
    assert tandem.metric("tandem_requests_total") >= 0
