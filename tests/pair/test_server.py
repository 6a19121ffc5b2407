"""The pair's server as a process: the official client, a leaving client, a full queue, bad input.

That the answers have vLLM's shape is `test_dialect`; what they say is tested here.
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.pair.conftest import ROOT, server

HELLO: Any = [{"role": "user", "content": "What is 47 + 38?"}]
CHAT = "/v1/chat/completions"
# Some ten seconds of work: still going on whatever a test asks beside it.
LONG = {"model": "small", "messages": HELLO, "max_tokens": 3000, "ignore_eos": True, "n": 32}


def metric(client: httpx.Client, name: str, model: str = "small") -> float:
    """One sample of /metrics."""
    lines = client.get("/metrics").text.splitlines()
    (line,) = [each for each in lines if each.startswith(name + "{") and f'"{model}"' in each]
    return float(line.rsplit(" ", 1)[1])


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask until it is so; each asking is a request, and the test's own time limit ends it."""
    while not condition():
        pass


def complete(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """A greedy completion with token ids."""
    greedy = {"model": "small", "temperature": 0, "return_token_ids": True, "ignore_eos": True}
    answer: dict[str, Any] = client.post("/v1/completions", json=greedy | body).json()
    return answer


def test_chat_with_the_official_client(api: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "large", "messages": HELLO, "max_tokens": 20, "seed": 7}
    answer = api.chat.completions.create(**asked)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    with api.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    spoken = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert spoken == answer.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == answer.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == answer.usage


def test_choices_have_seeds_of_their_own(api: openai.OpenAI) -> None:
    def texts(seed: int) -> list[str | None]:
        answer = api.chat.completions.create(
            model="small", messages=HELLO, n=4, seed=seed, temperature=2, max_tokens=12
        )
        return [choice.message.content for choice in answer.choices]

    assert texts(1) == texts(1)
    assert len(set(texts(1))) > 1
    assert texts(1)[1:] == texts(2)[:3]


def test_logprobs_with_the_official_client(api: openai.OpenAI) -> None:
    answer = api.chat.completions.create(
        model="small", messages=HELLO, temperature=0, max_tokens=8, logprobs=True, top_logprobs=3
    )
    assert answer.choices[0].logprobs is not None
    for token in answer.choices[0].logprobs.content or []:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == token.logprob <= 0
        assert bytes(token.bytes or []).decode() == token.token


def test_a_stream_and_a_whole_answer_report_the_same(pair: httpx.Client) -> None:
    body = {"model": "small", "prompt": "3 + 4 =", "max_tokens": 9, "temperature": 0, "logprobs": 1}
    whole = pair.post("/v1/completions", json=body).json()["choices"][0]
    raw = pair.post("/v1/completions", json=body | {"stream": True}).text
    events = [json.loads(line[6:]) for line in raw.split("\n\n") if "{" in line]
    told = [event["choices"][0] for event in events]
    assert raw.endswith("data: [DONE]\n\n")
    assert "".join(each["text"] for each in told) == whole["text"]
    joined = {
        field: [value for each in told for value in each["logprobs"][field]]
        for field in ("tokens", "text_offset", "token_logprobs")
    }
    assert joined["tokens"] == whole["logprobs"]["tokens"]
    assert joined["text_offset"] == whole["logprobs"]["text_offset"]
    assert joined["token_logprobs"] == pytest.approx(whole["logprobs"]["token_logprobs"], abs=1e-3)


def test_an_answer_can_be_continued_from_its_tokens(pair: httpx.Client) -> None:
    before = metric(pair, "vllm:prefix_cache_hits_total")
    prompt = pair.post("/tokenize", json={"model": "small", "messages": HELLO}).json()["tokens"]
    (whole,) = complete(pair, prompt=prompt, max_tokens=30)["choices"]
    begun = prompt + whole["token_ids"][:11]
    (rest,) = complete(pair, prompt=begun, max_tokens=19)["choices"]
    assert rest["token_ids"] == whole["token_ids"][11:]
    assert rest["prompt_token_ids"] == begun
    assert metric(pair, "vllm:prefix_cache_hits_total") - before >= len(begun) - 1


def test_a_batch_answers_each_prompt_as_alone(pair: httpx.Client) -> None:
    prompts = ["1 + 1 =", [40, 41, 42], "What"]
    alone = [complete(pair, prompt=prompt, max_tokens=5) for prompt in prompts]
    mixed = [
        pair.post("/tokenize", json={"model": "small", "prompt": prompt}).json()["tokens"]
        if isinstance(prompt, str)
        else prompt
        for prompt in prompts
    ]
    batch = complete(pair, prompt=mixed, max_tokens=5)
    assert [each["index"] for each in batch["choices"]] == [0, 1, 2]
    assert [each["token_ids"] for each in batch["choices"]] == [
        each["choices"][0]["token_ids"] for each in alone
    ]
    assert batch["usage"]["prompt_tokens"] == sum(map(len, mixed))


def test_a_chat_is_tokenized_as_it_is_answered(pair: httpx.Client) -> None:
    body = {"model": "large", "messages": HELLO, "max_tokens": 1, "return_token_ids": True}
    answered = pair.post(CHAT, json=body).json()["prompt_token_ids"]
    tokenized = pair.post("/tokenize", json={"model": "large", "messages": HELLO}).json()
    assert tokenized["tokens"] == answered
    assert tokenized["count"] == len(answered)
    text = pair.post("/detokenize", json={"model": "large", "tokens": answered}).json()["prompt"]
    assert "47 + 38" in text


def test_embeddings_as_numbers_and_as_base64(pair: httpx.Client, api: openai.OpenAI) -> None:
    decoded = api.embeddings.create(model="large", input=["two", "plus"])  # asks for base64
    body = {"model": "large", "input": ["two", "plus"], "encoding_format": "float"}
    plain = pair.post("/v1/embeddings", json=body).json()
    for left, right in zip(decoded.data, plain["data"], strict=True):
        np.testing.assert_allclose(left.embedding, right["embedding"], atol=1e-5)
        assert np.linalg.norm(left.embedding) == pytest.approx(1, abs=1e-4)
    raw = pair.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
    assert len(base64.b64decode(raw["data"][0]["embedding"])) == 4 * len(decoded.data[0].embedding)
    assert plain["usage"]["prompt_tokens"] == plain["usage"]["total_tokens"] > 0


def test_what_a_gateway_asks_first(pair: httpx.Client, api: openai.OpenAI) -> None:
    assert [model.id for model in api.models.list()] == ["small", "large"]
    assert pair.get("/v1/models").json()["data"][0]["max_model_len"] > 1000
    assert pair.get("/health").status_code == pair.get("/ping").status_code == 200
    assert pair.get("/version").json()["version"].startswith("0.32.0")
    assert pair.get("/load").json() == {"server_load": 0}
    assert CHAT in pair.get("/openapi.json").json()["paths"]
    assert pair.get("/nowhere").status_code == 404
    assert pair.get(CHAT).status_code == 405


def test_a_client_that_leaves_stops_its_answer(pair: httpx.Client) -> None:
    before = metric(pair, "pair:cancelled_total")
    made = metric(pair, "vllm:generation_tokens_total")
    with pair.stream("POST", CHAT, json=LONG | {"stream": True}) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        wait_for(lambda: pair.get("/load").json() == {"server_load": 1})
    wait_for(lambda: metric(pair, "pair:cancelled_total") == before + 1)
    wait_for(lambda: metric(pair, "vllm:num_requests_running") == 0)
    assert metric(pair, "vllm:generation_tokens_total") - made < 32 * 3000
    wait_for(lambda: pair.get("/load").json() == {"server_load": 0})


def test_a_client_that_leaves_before_a_whole_answer_stops_it_too(pair: httpx.Client) -> None:
    before = metric(pair, "pair:cancelled_total")
    body = json.dumps(LONG).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection((pair.base_url.host, pair.base_url.port or 80)) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: metric(pair, "vllm:num_requests_running") > 0)
    wait_for(lambda: metric(pair, "pair:cancelled_total") == before + 1)


def test_a_full_queue_says_so_until_there_is_room(small: Path) -> None:
    limits = ("--max-num-seqs", "1", "--max-num-queued-reqs", "31")
    short = LONG | {"max_tokens": 1, "n": 1}
    with server("--model", str(small), *limits) as client:
        with client.stream("POST", CHAT, json=LONG | {"stream": True}) as response:
            lines = response.iter_lines()  # held, or the response would be closed
            next(lines)
            refused = client.post(CHAT, json=short | {"stream": True})
            assert refused.status_code == 503
            assert refused.json()["error"]["type"] == "Service Unavailable"
        wait_for(lambda: client.post(CHAT, json=short).status_code == 200)
        assert client.post(CHAT, json=short | {"n": 33}).status_code == 503


def test_a_body_may_name_no_model(pair: httpx.Client) -> None:
    answer = pair.post(CHAT, json={"messages": HELLO, "max_tokens": 1})
    assert answer.json()["model"] == "small"


def test_a_request_id_comes_back(pair: httpx.Client) -> None:
    body = {"messages": HELLO, "max_tokens": 1}
    answer = pair.post(CHAT, json=body, headers={"x-request-id": "abc"}).json()
    assert answer["id"] == "chatcmpl-abc"


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        (CHAT, {"response_format": {"type": "json_object"}}, "response_format", "no guided"),
        (CHAT, {"response_format": {"type": "json_schema"}}, "response_format", "no guided"),
        (CHAT, {"structured_outputs": {"choice": ["a"]}}, "structured_outputs", "no guided"),
        (CHAT, {"bad_words": ["a"]}, "bad_words", "does not support"),
        (CHAT, {"use_beam_search": True}, "use_beam_search", "does not support"),
        (CHAT, {"n": 1000}, "n", "at most"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages", "role"),
        (CHAT, {"messages": [{"role": "user", "content": 3}]}, None, "content"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "text"),
        (CHAT, {"messages": [{"role": "user", "tool_calls": "x"}]}, None, "tool_calls"),
        ("/v1/completions", {"prompt": [40] * 5000}, "input_tokens", "maximum context length"),
        ("/v1/completions", {"prompt": [40] * 4096}, "max_tokens", "at least 1"),
        ("/v1/completions", {"prompt": "1" * 5000}, "input_tokens", "maximum context length"),
        ("/v1/completions", {"prompt": "1" * 100_000}, "input_text", "upper bound"),
        ("/v1/completions", {"prompt": "a", "prompt_embeds": "b"}, "prompt_embeds", "text"),
        ("/v1/embeddings", {"input": "a", "dimensions": 8}, "dimensions", "one size"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "x"}, "encoding_format", "float"),
        ("/v1/embeddings", {"input": []}, None, "at least one"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_field(
    pair: httpx.Client, path: str, body: dict[str, Any], param: str | None, message: str
) -> None:
    messages = {"messages": HELLO} if path == CHAT else {}
    answer = pair.post(path, json=messages | body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, 400, param)
    assert message in error["message"]


def test_a_forced_tool_is_refused(pair: httpx.Client) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    for choice in ("required", tool):
        body = {"messages": HELLO, "tools": [tool], "tool_choice": choice}
        answer = pair.post(CHAT, json=body)
        assert answer.status_code == 400
        assert "no guided decoding" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'{"messages": "\xff"}'])
def test_a_body_that_is_no_json_object_is_refused(pair: httpx.Client, body: bytes) -> None:
    answer = pair.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "Bad Request"
    assert answer.json()["error"]["param"] == "body"


def test_a_body_must_say_that_it_is_json(pair: httpx.Client) -> None:
    answer = pair.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
    assert "application/json" in answer.json()["error"]["message"]


def test_a_body_may_not_be_endless(pair: httpx.Client) -> None:
    answer = pair.post(CHAT, json={"messages": HELLO, "x": "y" * 9_000_000})
    assert answer.status_code == 413


def test_a_server_ends_with_its_parent(small: Path) -> None:
    command = [sys.executable, "-m", "deploy.pair", "--model", str(small), "--port", "0"]
    code = "import subprocess as s, sys; s.Popen(sys.argv[1:], stdin=s.PIPE).wait()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *command, "--exit-with-parent"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        url = httpx.URL(parent.stdout.readline().removeprefix("listening on ").strip())
        parent.kill()
    address = (url.host, url.port or 80)

    def refused() -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(address) != 0

    wait_for(refused)


def failed(*arguments: str) -> str:
    """The one line on stderr of a server that does not start."""
    ended = subprocess.run(
        [sys.executable, "-m", "deploy.pair", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    return line


def test_a_taken_port_is_named_in_one_line(small: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = failed("--model", str(small), "--port", port)
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


def test_absent_files_are_named_in_one_line(tmp_path: Path) -> None:
    line = failed("--model", str(tmp_path), "--port", "0")
    assert "model.onnx" in line
    assert "python -m deploy.pair.export" in line
