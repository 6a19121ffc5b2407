"""What is sent: the client's own bytes, the model's name in them, and what a policy asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from router.outgoing import hidden_by, outgoing
from router.pool import Pool
from router.sections import BreakerConfig, ModelConfig
from router.steps import Open, Surface
from tests.fleets import request


def pool(**settings: Any) -> Pool:
    return Pool("small", ModelConfig(backends=("http://a:1",), **settings), BreakerConfig())


def sent(body: dict[str, Any], surface: Surface = Surface.CHAT, **changes: Any) -> dict[str, Any]:
    asked = request(surface, body=body)
    decoded: dict[str, Any] = orjson.loads(outgoing(Open("small", asked, changes), pool()).body)
    return decoded


def test_the_model_is_called_what_the_backend_calls_it() -> None:
    asked = request(body={"messages": [], "x": 1})
    assert orjson.loads(outgoing(Open("small", asked), pool()).body)["model"] == "small"
    served = outgoing(Open("small", asked), pool(served_as="qwen")).body
    assert served == asked.raw.replace(b'"auto"', b'"qwen"')


def test_a_policy_cannot_change_the_models_name() -> None:
    assert sent({"messages": []}, model="another")["model"] == "small"


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.COMPLETIONS])
@pytest.mark.parametrize("asked", [None, {}, {"include_usage": False, "x": 1}])
def test_usage_is_always_asked_for_in_a_stream(surface: Surface, asked: Any) -> None:
    body = {"stream": True, "stream_options": asked}
    assert sent(body, surface)["stream_options"] == {**(asked or {}), "include_usage": True}


@pytest.mark.parametrize("surface", [Surface.MESSAGES, Surface.RESPONSES])
def test_but_not_of_apis_that_do_not_know_the_option(surface: Surface) -> None:
    assert "stream_options" not in sent({"stream": True}, surface)


def test_without_a_stream_nothing_is_added() -> None:
    assert set(sent({"messages": []})) == {"model", "messages"}


def test_the_path_is_the_surfaces() -> None:
    asked = request(Surface.COUNT_TOKENS, body={})
    assert outgoing(Open("small", asked), pool()).path == "/v1/messages/count_tokens"


def test_the_clients_key_stays_and_the_pools_goes() -> None:
    asked = replace(request(), forwarded={"traceparent": "00-1-2-01"})
    settings = ModelConfig(backends=("http://a:1",), api_key_env="SMALL_KEY")
    keyed = Pool("small", settings, BreakerConfig(), key="sk-pool")
    assert outgoing(Open("small", asked), keyed).headers == {
        "content-type": "application/json",
        "x-request-id": asked.id,
        "traceparent": "00-1-2-01",
        "authorization": "Bearer sk-pool",
    }


def test_no_header_of_a_client_takes_the_place_of_the_gateways_own() -> None:
    theirs = {"authorization": "Bearer x", "x-request-id": "y", "content-type": "z"}
    keyed = Pool("small", ModelConfig(backends=("http://a:1",)), BreakerConfig(), key="sk-pool")
    asked = replace(request(), forwarded=theirs)
    assert not set(theirs.values()) & set(outgoing(Open("small", asked), keyed).headers.values())


@pytest.mark.parametrize(
    ("body", "changes", "hidden"),
    [
        ({}, {}, set()),
        ({}, {"temperature": 0}, set()),
        ({}, {"logprobs": True}, {"logprobs"}),
        ({"logprobs": False}, {"logprobs": True}, {"logprobs"}),
        ({"logprobs": None}, {"logprobs": 0}, {"logprobs"}),
        ({"logprobs": 0}, {"logprobs": 0}, set()),
        ({"logprobs": True}, {"top_logprobs": 5}, set()),
        ({"logprobs": True}, {"return_token_ids": True}, {"token_ids"}),
        ({}, {"logprobs": True, "top_logprobs": 5, "return_token_ids": True},
         {"logprobs", "token_ids"}),
    ],
)  # fmt: skip
def test_what_only_the_policy_asked_for_is_hidden(
    body: dict[str, Any], changes: dict[str, Any], hidden: set[str]
) -> None:
    assert hidden_by(Open("small", request(body=body), changes)) == hidden
