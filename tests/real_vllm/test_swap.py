"""A policy is swapped again and again under load: no request fails, and none is mixed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.real_vllm.servers import Gateway, Json

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]  # the first one starts the servers

BODY: Json = {
    "model": "turned",
    "messages": [{"role": "user", "content": "There are 5 boxes with 8 pens each. How many pens?"}],
    "temperature": 0,
    "max_tokens": 16,
    "stream": True,
}
CLIENTS = 4
SWAPS = 40


@dataclass(frozen=True, slots=True)
class Seen:
    """One streamed answer: its revision, who wrote it by the header, and by every chunk."""

    revision: int
    header: str
    models: frozenset[str]
    complete: bool


def one(client: httpx.Client) -> Seen:
    """Ask, and hear the answer to its end."""
    with client.stream("POST", "/v1/chat/completions", json=BODY) as answer:
        assert answer.status_code == 200, answer.read()
        events = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return Seen(
        revision=int(answer.headers["x-tandem-revision"]),
        header=answer.headers["x-tandem-models"],
        models=frozenset(chunk.get("model", "an error") for chunk in chunks),
        complete=events[-1] == "[DONE]",
    )


def asking(tandem: Gateway, over: threading.Event) -> Iterator[Seen]:
    with tandem.client() as client:
        while not over.is_set():
            yield one(client)


def test_swaps_under_load(tandem: Gateway) -> None:
    over = threading.Event()
    serves: dict[int, str] = {}
    with ThreadPoolExecutor(CLIENTS) as pool, tandem.admin() as admin:
        loads = [pool.submit(lambda: list(asking(tandem, over))) for _ in range(CLIENTS)]
        try:
            for number in range(SWAPS):
                model = ("large", "small")[number % 2]
                policy = {"use": "direct", "model": model}
                swapped = admin.put("/admin/policies/turned", json=policy)
                assert swapped.is_success, swapped.text
                serves[swapped.json()["number"]] = model
                with tandem.client() as client:
                    now = one(client)  # also the pause in which the others come to ask
                    assert serves[now.revision] == model
        finally:
            over.set()
        seen = [answer for load in loads for answer in load.result()]
    assert len(seen) >= SWAPS
    for answer in seen:
        assert answer.complete
        expected = serves.get(answer.revision, "small")
        assert (answer.models, answer.header) == (frozenset({expected}), expected)
    assert len({answer.revision for answer in seen}) > SWAPS / 4, "load and swaps did not meet"
