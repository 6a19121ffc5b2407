"""A real vLLM goes on with the gateway's trace: one trace from the client to the engine.

It has a server of its own, since a vLLM is told at its start where its spans go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_vllm.conftest import MODELS
from tests.real_vllm.servers import Server, await_vllm, vllm
from tests.running import config, running
from tests.tracing.collector import Collector, Told, collecting

ENGINE = "llm_request"
"""What vLLM calls its span of a request."""
LATEST = 30.0
"""Seconds in which its spans must have come; it sends them every five."""

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as it:
        yield it


@pytest.fixture(scope="module")
def engine(python: Path, logs: Path, collector: Collector) -> Iterator[Server]:
    told = ("--otlp-traces-endpoint", f"{collector.url}/v1/traces")
    protocol = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    with vllm(python, MODELS / "small", logs, protocol, *told) as server:
        await_vllm(server)
        yield server


async def test_the_engines_span_hangs_below_the_attempts(
    engine: Server, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    tree = config({"small": engine.url}, tracing={})
    async with running(tree) as it:
        answer = await it.post(model="small", max_tokens=8)
        assert answer.status_code == 200, answer.text
    [attempt] = [span for span in collector.spans if span.name == "chat small"]

    def below() -> list[Told]:
        """The engine's own; it has others, of the gateway's probes."""
        return [s for s in collector.spans if (s.name, s.trace) == (ENGINE, attempt.trace)]

    async with asyncio.timeout(LATEST):
        while not below():
            await asyncio.sleep(0.1)
    [theirs] = below()
    assert theirs.parent == attempt.span
    assert attempt.start <= theirs.start < theirs.end <= attempt.end + 10**9
