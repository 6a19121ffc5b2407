"""Policies whose decisions rest on what vLLM says: log-probabilities and a verdict in one token."""

from __future__ import annotations

import re

import httpx
import pytest

from policies.verdicts.grading import DRAFT, GRADE_PROMPT, QUESTION
from tests.real_vllm.servers import Gateway, Json, Server

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
