"""A client that leaves ends the work of vLLM: seen in vLLM's own metrics.

The client is a bare HTTP connection: it is the one that can hang up at any moment.
"""

from __future__ import annotations

import contextlib
import http.client
import json

import pytest

from tests.real_vllm.servers import Gateway, Json, Server, eventually

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

LONG: Json = {
    "messages": [{"role": "user", "content": "Count."}],
    "max_tokens": 3500,
    "ignore_eos": True,
}
"""More than ten seconds of work."""
SECONDS = 5.0
"""In which vLLM must be idle again."""


def running(server: Server) -> float:
    return server.metric("vllm:num_requests_running")


def generated(server: Server) -> float:
    return server.metric("vllm:generation_tokens_total")


@pytest.mark.parametrize(
    ("target", "at_work", "stream", "heard"),
    [
        pytest.param("large", "large", True, True, id="in a stream"),
        pytest.param("large", "large", False, False, id="before a whole answer"),
        pytest.param("never-content", "small", True, False, id="while a draft is made"),
    ],
)
def test_leaving(
    target: str, at_work: str, stream: bool, heard: bool, tandem: Gateway, vllms: dict[str, Server]
) -> None:
    server = vllms[at_work]
    before = generated(server)
    body = json.dumps(LONG | {"model": target, "stream": stream})
    address = tandem.url.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(address, timeout=30)) as client:
        client.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        # Asked of the gateway: a vLLM that streams at full speed may not tell before it is done.
        calls = "tandem_in_flight"
        eventually(lambda: tandem.metric(calls, model=at_work) == 1, 30, f"{at_work} is at work")
        assert server.get("/version").is_success, "a server that answers this has taken the call in"
        if heard:
            with client.getresponse() as answer:
                assert answer.readline().startswith(b"data: ")
    eventually(lambda: running(server) == 0, SECONDS, "vLLM stops working for a client that left")
    assert generated(server) - before < LONG["max_tokens"], "it has written all the same"
