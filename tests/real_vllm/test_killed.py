"""A vLLM hangs and is killed while it answers. Runs last (see conftest): no small one is left then.

One death is seen by three kinds of requests: one in the middle of its answer, some before the first
byte of theirs, and those that come later.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.real_vllm.servers import Gateway, Json, Server, eventually

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

BODY: Json = {
    "model": "careful",
    "messages": [{"role": "user", "content": "How much is 3 + 4?"}],
    "max_tokens": 64,
}
LONG: Json = BODY | {"max_tokens": 3500, "ignore_eos": True, "stream": True}
"""Seconds of work: the death comes in the middle of it."""
WAITING = 4
"""Requests that have no byte yet when the server dies."""


def test_killed(tandem: Gateway, small: Server, http: httpx.Client) -> None:
    with ThreadPoolExecutor(WAITING) as pool, tandem.client() as client:
        with client.stream("POST", "/v1/chat/completions", json=LONG) as answer:
            lines = answer.iter_lines()
            first = next(line for line in lines if line.startswith("data: "))
            small.freeze()
            asked = [
                pool.submit(client.post, "/v1/chat/completions", json=BODY) for _ in range(WAITING)
            ]
            eventually(
                lambda: tandem.metric("tandem_in_flight", model="small") == 1 + WAITING,
                30,
                "all requests are with the small vLLM",
            )
            small.kill()
            rest = [line for line in lines if line.startswith("data: ")]
        answers = [request.result() for request in asked]

    # The one in the middle of its answer: it is told, and never restarted on another model.
    assert answer.headers["x-tandem-models"] == "small"
    assert json.loads(first.removeprefix("data: "))["model"] == "small"
    assert "data: [DONE]" not in rest
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["message"]

    # Those without a byte: the large model answers, as the policy says.
    for waited in answers:
        assert waited.status_code == 200
        assert waited.json()["model"] == "large"
        assert waited.headers["x-tandem-reason"].startswith("fell_back")

    # Those that come later.
    eventually(
        lambda: "unhealthy" in tandem.get("/readyz").text, 10, "the gateway sees that small is dead"
    )
    later = http.post("/v1/chat/completions", json=BODY)
    assert (later.status_code, later.json()["model"]) == (200, "large")
    refused = http.post("/v1/chat/completions", json=BODY | {"model": "small"})
    assert refused.status_code == 503
    assert "small" in refused.json()["error"]["message"]
