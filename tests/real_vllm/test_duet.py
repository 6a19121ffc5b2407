"""Two models on real vLLM write one answer: the same that they write in the embedded engine."""

from __future__ import annotations

import concurrent.futures
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from deploy.pair.problems import Problem, is_correct, problems
from tests.real_vllm.servers import Gateway, Json, Server, eventually, gateway

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

SEED = 1_700_000
"""Of problems for tuning: nothing that is reported on."""
COMPARED = 20
"""Problems whose answers are compared; about 1,600 tokens for each policy."""
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 36, "b": 25}}\n</tool_call>'
TOOL: Json = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
PAIR = {"small": "small", "large": "large"}
POLICIES = {
    "gated": {"use": "token_gate", **PAIR, "rule": "entropy", "threshold": 0.3},
    "ahead": {"use": "token_gate", **PAIR, "rule": "entropy", "threshold": 0.3, "optimistic": True},
    "ead": {"use": "entropy", **PAIR, "threshold": 0.1, "window": 2, "dwell": 3},
    "reasoned": {"use": "entropy", **PAIR, "threshold": 0.1, "reasoning": True},
    "voted": {"use": "best_of", "small": "gated", "majority": {}, "stages": [3], "bar": 0.5},
}


def front(small: str, large: str, logs: Path) -> dict[str, object]:
    models = {"small": {"backends": [small]}, "large": {"backends": [large]}}
    return {
        "listen": {"port": 0},
        "admin": {"port": 0},
        "models": models,
        "policies": POLICIES,
        "default": "gated",
    }


@pytest.fixture(scope="module")
def duet(
    small: Server, large: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """The gateway before two vLLM servers."""
    folder = tmp_path_factory.mktemp("duet")
    with gateway(front(small.url, large.url, folder), folder) as running:
        yield running


@pytest.fixture(scope="module")
def reference(pair: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The gateway before the same models in the embedded engine."""
    folder = tmp_path_factory.mktemp("reference")
    with gateway(front(pair.url, pair.url, folder), folder) as running:
        yield running


def body(problem: Problem, policy: str, **more: object) -> Json:
    messages = [{"role": "user", "content": problem.prompt}]
    return {"model": policy, "messages": messages, "temperature": 0, "max_tokens": 320, **more}


def ask(server: Server, asked: Json) -> httpx.Response:
    with server.client() as client:
        answer = client.post("/v1/chat/completions", json=asked, headers={"x-tandem-explain": "1"})
    assert answer.status_code == 200, answer.text
    return answer


def written(answer: httpx.Response) -> list[tuple[int, str]]:
    """Every token's id with the model that wrote it."""
    (choice,) = answer.json()["tandem"]["choices"]
    return [(token["id"], token["model"]) for token in choice["tokens"]]


@pytest.mark.parametrize("policy", ["gated", "ahead", "ead"])
def test_the_engines_write_the_same_answers(policy: str, duet: Gateway, reference: Gateway) -> None:
    """Token for token, by the same model at every position."""
    handed = 0
    for problem in problems(SEED, COMPARED):
        here, there = (ask(server, body(problem, policy)) for server in (duet, reference))
        assert written(here) == written(there), problem.prompt
        assert here.headers["x-tandem-reason"].startswith("in_engine")
        handed += sum(model == "large" for _, model in written(here))
    assert handed > COMPARED, "the rule hardly fired: nothing was compared"


def test_an_optimistic_gate_writes_what_a_patient_one_does(duet: Gateway) -> None:
    for problem in problems(SEED, COMPARED):
        patient, ahead = (ask(duet, body(problem, policy)) for policy in ("gated", "ahead"))
        assert written(patient) == written(ahead)


def test_answers_are_better_than_the_small_models(duet: Gateway) -> None:
    asked = list(problems(SEED, COMPARED))
    right = {
        policy: sum(
            is_correct(ask(duet, body(p, policy)).json()["choices"][0]["message"]["content"], p)
            for p in asked
        )
        for policy in ("small", "gated", "ead")
    }
    assert right["small"] < right["gated"]
    assert right["small"] < right["ead"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_answers_by_two_models_are_sampled_and_one_is_given(stream: bool, duet: Gateway) -> None:
    """With its writers; of the others only the usage tells."""
    (problem,) = problems(SEED, 1)
    asked = body(problem, "voted", seed=3, stream_options={"include_usage": True})
    whole = ask(duet, asked)
    assert re.match(
        r"(sure|best); majority \d\.\d\d of 3 samples", whole.headers["x-tandem-reason"]
    )
    told, usage = written(whole), whole.json()["usage"]
    assert {model for _, model in told} == {"small", "large"}
    assert usage["completion_tokens"] > 2 * len(told)
    models = dict(re.findall(r"(\w+)=(\d+)", whole.headers["x-tandem-models"]))
    assert {name: int(count) for name, count in models.items()} == {
        name: sum(model == name for _, model in told) for name in ("small", "large")
    }
    if stream:
        with openai.OpenAI(base_url=f"{duet.url}/v1", api_key="none", max_retries=0) as client:
            chunks = list(client.chat.completions.create(**asked, stream=True))
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices]
        assert {part.index for part in parts} == {0}
        assert [p.finish_reason for p in parts if p.finish_reason] == ["stop"]
        assert "".join(p.delta.content or "" for p in parts).count("Answer:") == 1


@pytest.mark.parametrize("policy", ["gated", "ead"])
def test_a_stream_without_a_seam(policy: str, duet: Gateway) -> None:
    """The official client sees one answer: one id, one role, one finish, usage counted once."""
    (problem,) = problems(SEED, 1)
    whole = ask(duet, body(problem, policy)).json()
    with openai.OpenAI(base_url=f"{duet.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = body(problem, policy, stream=True, stream_options={"include_usage": True})
        chunks = list(client.chat.completions.create(**asked))
    *parts, last = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in parts]
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    text = "".join(delta.content or "" for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    assert [c.choices[0].finish_reason for c in parts if c.choices[0].finish_reason] == ["stop"]
    assert last.usage is not None
    assert last.usage.prompt_tokens == whole["usage"]["prompt_tokens"]
    assert last.usage.completion_tokens == whole["usage"]["completion_tokens"]


def test_stop_strings_limits_and_choices_hold_across_hand_offs(duet: Gateway) -> None:
    (problem,) = problems(SEED, 1)
    full = ask(duet, body(problem, "gated"))
    text, tokens = full.json()["choices"][0]["message"]["content"], written(full)
    seam = next(n for n, (_, model) in enumerate(tokens) if model == "large")
    cut = ask(duet, body(problem, "gated", max_tokens=seam + 2)).json()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == seam + 2
    begun = len(cut["choices"][0]["message"]["content"])
    stop = text[begun - 3 : begun + 3]
    stopped = ask(duet, body(problem, "gated", stop=[stop])).json()["choices"][0]
    assert stopped["message"]["content"] == text[: text.index(stop)]
    assert (stopped["finish_reason"], stopped["stop_reason"]) == ("stop", stop)
    two = ask(duet, body(problem, "gated", n=2)).json()["choices"]
    assert [choice["message"]["content"] for choice in two] == [text, text]


def test_log_probabilities_are_those_of_the_model_that_wrote_the_token(duet: Gateway) -> None:
    (problem,) = problems(SEED, 1)
    answer = ask(duet, body(problem, "gated", logprobs=True, top_logprobs=2))
    told = answer.json()["choices"][0]["logprobs"]["content"]
    assert len(told) == len(written(answer))
    assert all(len(token["top_logprobs"]) == 2 for token in told)
    assert "".join(token["token"] for token in told).startswith(
        answer.json()["choices"][0]["message"]["content"]
    )


def test_many_streams_at_once_are_each_what_they_are_alone(duet: Gateway) -> None:
    asked = list(problems(SEED, 16))
    alone = [written(ask(duet, body(problem, "gated"))) for problem in asked]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda p: written(ask(duet, body(p, "gated"))), asked))
    assert together == alone


def test_a_client_that_leaves_stops_both(duet: Gateway, small: Server, large: Server) -> None:
    (problem,) = problems(SEED, 1)
    endless = body(problem, "gated", stream=True, max_tokens=3000, ignore_eos=True)
    with duet.client() as client, client.stream("POST", "/v1/chat/completions", json=endless) as r:
        for number, _ in enumerate(r.iter_lines()):
            if number > 50:
                break

    def idle() -> bool:
        return not any(s.metric("vllm:num_requests_running") for s in (small, large))

    eventually(idle, 5, "no request is left running")


# --------------------------------------------------------------------------------- tools, reasoning


def test_what_a_model_calls_is_read_by_vllm(duet: Gateway, small: Server) -> None:
    """An answer to a request with tools is read by derender; without a call it is plain text."""
    (problem,) = problems(SEED, 1)
    plain = ask(duet, body(problem, "ead")).json()["choices"][0]["message"]["content"]
    offered = ask(duet, body(problem, "ead", tools=[TOOL]))
    assert offered.headers["x-tandem-reason"].startswith("in_engine")
    (choice,) = offered.json()["choices"]
    assert choice["finish_reason"] in {"stop", "length"}
    assert choice["message"]["content"]
    reasoned = ask(duet, body(problem, "reasoned")).json()["choices"][0]["message"]
    assert reasoned["content"]
    assert isinstance(plain, str)


def test_a_call_is_told_from_text(small: Server) -> None:
    """The very question that the gateway asks, about tokens that no tiny model would write."""
    with small.client() as client:
        asked = {"model": "small", "prompt": CALL, "add_special_tokens": False}
        ids = client.post("/tokenize", json=asked).json()["tokens"]
        answer = client.post(
            "/v1/chat/completions/derender",
            json={
                "generate_response": {
                    "request_id": "r",
                    "choices": [{"index": 0, "token_ids": ids, "finish_reason": "stop"}],
                },
                "prompt_token_ids": [5],
                "chat_request": {"model": "small", "messages": [], "tools": [TOOL]},
            },
        )
    (choice,) = answer.json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "add"
    assert json.loads(call["function"]["arguments"]) == {"a": 36, "b": 25}


def test_why_says_how_many_tokens_each_wrote(duet: Gateway) -> None:
    (problem,) = problems(SEED, 1)
    answer = ask(duet, body(problem, "gated"))
    stated = re.search(
        r"(\d+) of (\d+) tokens by large, in (\d+) turn", answer.headers["x-tandem-reason"]
    )
    assert stated is not None
    tokens = written(answer)
    assert int(stated[1]) == sum(model == "large" for _, model in tokens)
    assert int(stated[2]) == len(tokens) == answer.json()["usage"]["completion_tokens"]
