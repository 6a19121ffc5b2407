"""Policies whose decisions rest on what vLLM says: log-probabilities and a verdict in one token."""

from __future__ import annotations

import json
import re
from functools import partial

import httpx
import pytest

from policies.verdicts.grading import DRAFT, GRADE_PROMPT, QUESTION
from tests.real_vllm.servers import Gateway, Json, Server, eventually

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

ASKED = "A shop has 36 pens. It sells 17 and then buys 25 more. How many pens are there now?"
BODY: Json = {
    "messages": [{"role": "user", "content": ASKED}], "temperature": 0, "max_tokens": 32,
}  # fmt: skip


def ask(server: Server, body: Json) -> Json:
    """The first choice of a chat answer."""
    with server.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.is_success, answer.text
    choice: Json = answer.json()["choices"][0]
    return choice


@pytest.mark.parametrize(
    ("policy", "author", "reason"),
    [
        ("easily-content", "small", "draft_accepted"),
        ("never-content", "large", "draft_rejected"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_cascade_by_mean_logprob(
    policy: str,
    author: str,
    reason: str,
    stream: bool,
    http: httpx.Client,
    vllms: dict[str, Server],
) -> None:
    answer = http.post("/v1/chat/completions", json=BODY | {"model": policy, "stream": stream})
    assert answer.status_code == 200
    assert answer.headers["x-tandem-reason"].startswith(reason)
    assert answer.headers["x-tandem-models"].split("=")[0] == author
    drafted = ask(vllms["small"], BODY | {"model": "small", "logprobs": True})
    logprobs = [token["logprob"] for token in drafted["logprobs"]["content"]]
    stated = re.search(r"mean logprob (-?[0-9.]+)", answer.headers["x-tandem-reason"])
    assert stated is not None
    assert float(stated[1]) == pytest.approx(sum(logprobs) / len(logprobs), abs=2e-3)
    if not stream:
        (choice,) = answer.json()["choices"]
        assert choice["logprobs"] is None, "the client did not ask for them"
        expected = ask(vllms[author], BODY | {"model": author})
        assert choice["message"]["content"] == expected["message"]["content"]


@pytest.mark.parametrize("agrees", [True, False])
def test_cascade_by_the_draft_graded(
    agrees: bool, http: httpx.Client, tandem: Gateway, small: Server, large: Server
) -> None:
    draft = ask(small, BODY | {"model": "small"})["message"]["content"]
    question = GRADE_PROMPT.replace(QUESTION, ASKED).replace(DRAFT, draft)
    grading = {"messages": [{"role": "user", "content": question}], "temperature": 0}
    verdict = ask(large, grading | {"model": "large", "max_tokens": 1})["message"]["content"]
    accept = [verdict.strip() if agrees else "some other word"]
    graded = {"use": "cascade", "small": "small", "large": "large"}
    with tandem.admin() as admin:
        policy = graded | {"grade": {"by": "large", "accept": accept}}
        assert admin.put("/admin/policies/graded", json=policy).is_success
    answer = http.post("/v1/chat/completions", json=BODY | {"model": "graded"})
    assert answer.headers["x-tandem-models"].split("=")[0] == ("small" if agrees else "large")
    assert f"grade {verdict!r}" in answer.headers["x-tandem-reason"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("verifier", [{"majority": {}}, {"mean_logprob": -0.5}], ids=str)
def test_one_of_several_samples(
    verifier: Json, stream: bool, http: httpx.Client, tandem: Gateway
) -> None:
    """One call with `n`, whose choices arrive by turns in a stream; one of them is left."""
    policy = {"use": "best_of", "small": "small", "stages": [2, 4], **verifier}
    with tandem.admin() as admin:
        assert admin.put("/admin/policies/sampled", json=policy).is_success
    told = {"stream_options": {"include_usage": True}} if stream else {}
    asked = BODY | told | {"model": "sampled", "stream": stream, "max_tokens": 200, "seed": 3}
    answer = http.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    if stream:
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines()]
        chunks = [json.loads(line) for line in lines if line.startswith("{")]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        usage = chunks[-1]["usage"]
    else:
        choices = answer.json()["choices"]
        text, usage = choices[0]["message"]["content"], answer.json()["usage"]
        assert len(choices) == 1
        assert " samples, stage " in answer.headers["x-tandem-reason"]
    assert {choice["index"] for choice in choices} == {0}
    assert all(not choice.get("logprobs") for choice in choices), "the client did not ask for them"
    assert "Answer: " in text
    assert usage["completion_tokens"] > 2 * 40, "of all samples, each of at least 40 tokens"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_partial_answers_that_are_resampled(
    stream: bool, http: httpx.Client, tandem: Gateway, vllms: dict[str, Server]
) -> None:
    """Hardly heated, every particle says what the small model says alone: so what is continued in
    many calls, as a last message and several at once, must read as if it had been one.
    """
    prompt = GRADE_PROMPT.replace("Is this solution right?", "Is this solution right so far?")
    policy = {
        "use": "particles",
        "small": "small",
        "grade": {"by": "large", "prompt": prompt},
        "particles": 3,
        "separator": "\n",
        "temperature": 0.01,
        "most_steps": 20,
    }
    with tandem.admin() as admin:
        assert admin.put("/admin/policies/filtered", json=policy).is_success
    told = {"stream_options": {"include_usage": True}} if stream else {}
    asked = BODY | told | {"model": "filtered", "stream": stream, "max_tokens": 200, "seed": 3}
    answer = http.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    if stream:
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines()]
        chunks = [json.loads(line) for line in lines if line.startswith("{")]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        usage = chunks[-1]["usage"]
    else:
        choices = answer.json()["choices"]
        text, usage = choices[0]["message"]["content"], answer.json()["usage"]
    alone = ask(vllms["small"], BODY | {"model": "small", "max_tokens": 200})
    assert text == alone["message"]["content"]
    assert choices[-1]["finish_reason"] == "stop"
    why = usage["tandem"]["reason"]
    steps = re.search(r"grade 0\.[0-9]+ of 3 particles, ([0-9]+) steps", why)
    assert steps is not None, why
    assert int(steps[1]) > 5, "a step a line"
    written = usage["tandem"]["models"]["small"]
    assert text.count("\n") < written < usage["completion_tokens"]
    assert usage["completion_tokens"] >= 3 * written - 3, "of all three, less what is special"
    eventually(partial(_idle, tuple(vllms.values())), 10, "engines without requests")


def _idle(servers: tuple[Server, ...]) -> bool | None:
    """Whether no engine has anything to do."""
    return not any(one.metric("vllm:num_requests_running") for one in servers) or None
