"""The embedded server's sleep mode: vLLM's endpoints, and what becomes of memory and requests.

That a real vLLM takes the same conversation is `tests/real_vllm/test_sleep.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.pair.engine import Engine, Job
from deploy.pair.text import Stopping
from tests.pair.conftest import server
from tests.pair.test_server import complete, metric, wait_for

LONG = {"max_tokens": 3000, "ignore_eos": True}
TWO = "/wake_up?tags=weights", "/wake_up?tags=kv_cache"


@pytest.fixture(scope="module")
def process(small: Path) -> Iterator[httpx.Client]:
    with server("--model", f"small={small}", "--sleep-mode") as client:
        yield client


@pytest.fixture
def client(process: httpx.Client) -> Iterator[httpx.Client]:
    """The server, awake before and after."""
    yield process
    for path in TWO:
        process.post(path)
    reload(process)


def reload(client: httpx.Client) -> httpx.Response:
    return client.post("/collective_rpc", json={"method": "reload_weights"})


def sleeping(client: httpx.Client) -> bool:
    said = client.get("/is_sleeping").json()
    assert said.keys() == {"is_sleeping"}
    return bool(said["is_sleeping"])


def text(client: httpx.Client) -> str:
    answer: str = complete(client, prompt="3 + 4 =", max_tokens=12)["choices"][0]["text"]
    return answer


def later(client: httpx.Client, pool: ThreadPoolExecutor, **body: Any) -> Future[httpx.Response]:
    asked = {"model": "small", "prompt": "3 + 4 =", "max_tokens": 4, **body}
    return pool.submit(httpx.post, f"{client.base_url}/v1/completions", json=asked, timeout=60)


def test_without_the_flag_there_is_no_sleep_mode(pair: httpx.Client) -> None:
    assert pair.get("/is_sleeping").status_code == 404
    assert pair.post("/sleep").status_code == 404


def test_what_each_endpoint_says(client: httpx.Client) -> None:
    assert client.post("/sleep").json() == {"status": "sleeping", "level": 1}
    assert sleeping(client)
    assert client.post("/wake_up").json() == {"status": "awake", "tags": None}
    assert not sleeping(client)
    assert client.post("/sleep?level=2&mode=wait").json() == {"status": "sleeping", "level": 2}
    assert client.post(TWO[0]).json() == {"status": "sleeping", "tags": ["weights"]}
    assert sleeping(client)
    assert reload(client).json() == {"results": [None]}
    assert client.post(TWO[1]).json() == {"status": "awake", "tags": ["kv_cache"]}
    assert not sleeping(client)


@pytest.mark.parametrize("path", ["/sleep?level=3", "/sleep?mode=keep", "/sleep?level=deep"])
def test_what_is_not_spoken_is_refused(client: httpx.Client, path: str) -> None:
    assert client.post(path).status_code == 400
    assert not sleeping(client)


def test_while_it_sleeps_it_is_well_and_answers_what_needs_no_weights(client: httpx.Client) -> None:
    client.post("/sleep")
    assert client.get("/health").is_success
    assert client.get("/v1/models").is_success
    assert client.post("/tokenize", json={"prompt": "hello"}).json()["count"] > 0
    states = [line for line in client.get("/metrics").text.splitlines() if "sleep_state" in line]
    assert [line.rsplit(" ", 1)[1] for line in states[1:]] == ["0", "1", "0"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
def test_requests_lie_where_they_are_until_it_wakes(client: httpx.Client, path: str) -> None:
    client.post("/sleep")
    body = {"model": "small", "prompt": "3 + 4 =", "input": "3 + 4", "max_tokens": 4}
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx.post, f"{client.base_url}{path}", json=body, timeout=60)
        if path == "/v1/completions":
            wait_for(lambda: metric(client, "vllm:num_requests_waiting") == 1)
        assert not asked.done()
        client.post("/wake_up")
        assert asked.result().is_success


@pytest.mark.parametrize("level", [1, 2])
def test_it_answers_as_before(client: httpx.Client, level: int) -> None:
    before = text(client)
    client.post("/sleep", params={"level": level})
    client.post(TWO[0])
    if level == 2:
        reload(client)
    client.post(TWO[1])
    assert text(client) == before


def test_after_level_2_nothing_is_answered_without_weights(client: httpx.Client) -> None:
    with ThreadPoolExecutor() as pool:
        client.post("/sleep?level=2")
        asked = later(client, pool)
        wait_for(lambda: metric(client, "vllm:num_requests_waiting") == 1)
        client.post("/wake_up")
        said = asked.result()
    assert said.status_code == 500
    assert "reload_weights" in said.json()["error"]["message"]
    refused = client.post("/v1/completions", json={"model": "small", "prompt": "1"})
    assert refused.status_code == 500
    assert client.get("/health").is_success
    reload(client)
    assert text(client)


def test_there_is_no_room_for_weights_before_waking(client: httpx.Client) -> None:
    client.post("/sleep?level=2")
    assert reload(client).status_code == 500


def test_waiting_for_what_runs(client: httpx.Client) -> None:
    with ThreadPoolExecutor() as pool:
        running = later(client, pool, max_tokens=400, ignore_eos=True)
        wait_for(lambda: metric(client, "vllm:num_requests_running") == 1)
        client.post("/sleep?mode=wait")
        assert running.result().json()["usage"]["completion_tokens"] == 400
        assert sleeping(client)


def test_not_waiting_for_what_runs(client: httpx.Client) -> None:
    with ThreadPoolExecutor() as pool:
        running = later(client, pool, **LONG)
        wait_for(lambda: metric(client, "vllm:num_requests_running") == 1)
        client.post("/sleep")
        assert "aborted" in json.dumps(running.result().json())
        client.post("/wake_up")
        assert text(client)


def test_its_memory_is_let_go(engine: Engine) -> None:
    engine.generate(Job((1, 2, 3), Stopping(max_tokens=4)))
    assert engine.kept_bytes > 0
    engine.unload()
    assert engine.kept_bytes == 0
    assert not engine.graph.loaded
    engine.graph.load()
    assert len(engine.generate(Job((1, 2, 3), Stopping(max_tokens=4, ignore_eos=True)))) == 4
