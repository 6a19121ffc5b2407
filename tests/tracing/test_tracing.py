"""Traces and metrics, from a whole gateway to a collector that decodes what comes."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from app.tracing import tracing, words
from app.tracing.tracing import PATIENCE, Tracing, TracingError, opened
from router.sections import TracingConfig
from tests.app.observations import ENDED
from tests.conftest import Started
from tests.fleets import request
from tests.running import CHAT, MESSAGES, Config, config, running
from tests.scripted import Backend, answers, chat_answer, hangs_up
from tests.tracing.collector import Collector, Told, collecting

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SERVER, CLIENT = 2, 3
"""Kinds of spans on the wire."""
CANARY = "canary-f00d"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as it:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", it.url)
        yield it


def traced(small: Backend, **sections: Any) -> Config:
    return config({"small": small}, tracing={}, **sections)


def split(collector: Collector) -> tuple[Told, list[Told]]:
    """The request's span and those of its attempts, as they began."""
    [server] = [span for span in collector.spans if span.kind == SERVER]
    clients = [span for span in collector.spans if span.kind == CLIENT]
    return server, sorted(clients, key=lambda span: span.start)


def parent_of(backend: Backend, number: int = 0) -> list[str]:
    return backend.calls[number].headers["traceparent"].split("-")


async def test_a_request_and_its_attempt(collector: Collector, small: Backend) -> None:
    began = time.time_ns()
    async with running(traced(small)) as it:
        await it.streamed(model="small", max_tokens=5, temperature=0.5, stop=CANARY)
    server, [client] = split(collector)
    assert (server.name, client.name) == ("POST /v1/chat/completions", "chat small")
    assert (server.parent, client.parent, client.trace) == ("", server.span, server.trace)
    assert began <= server.start <= client.start < client.end <= server.end <= time.time_ns()
    assert parent_of(small) == ["00", server.trace, client.span, "01"]
    said = server.attributes
    assert said[words.OPERATION] == "chat"
    assert (said[words.STATUS], said[words.POLICY], said[words.STREAM]) == (200, "small", True)
    assert (said[words.INPUT_TOKENS], said[words.OUTPUT_TOKENS]) == (10, 2)
    assert (said[words.MODELS], said[words.MODEL_TOKENS]) == (["small"], [2])
    assert said["gen_ai.request.max_tokens"] == 5
    assert said["gen_ai.request.temperature"] == 0.5
    assert said[words.COST] == pytest.approx(14e-6)
    assert 0 < said[words.FIRST_CHUNK] < 10
    assert client.attributes[words.HOST] == "127.0.0.1"
    assert client.attributes[words.PORT] == small.port
    assert not server.failed
    assert not client.failed
    assert server.resource["service.name"] == "tandem"


async def test_what_it_takes_served_alone(collector: Collector, small: Backend) -> None:
    tree = traced(small)
    tree["models"]["small"] |= {"idealised": {"call": 0.5, "decode": 0.1}, "usd_per_hour": 36}
    async with running(tree) as it:
        await it.post(model="small")
    server, [client] = split(collector)
    for span in (server, client):
        assert span.attributes[words.IDEALISED] == pytest.approx(0.5 + 2 * 0.1)
        assert span.attributes[words.IDEALISED_COST] == pytest.approx(0.7 * 36 / 3600)


async def test_an_attempt_that_failed_and_the_one_that_answered(
    collector: Collector, small: Backend, large: Backend
) -> None:
    small.plays(hangs_up)
    tree = config(
        {"small": small, "large": large},
        policies={"safe": {"use": "fallback", "targets": ["small", "large"]}},
        tracing={},
    )
    async with running(tree) as it:
        assert (await it.post()).status_code == 200
    server, [first, second] = split(collector)
    assert (first.failed, second.failed, server.failed) == (True, False, False)
    assert first.attributes[words.ERROR] == "backend"
    assert (first.attributes[words.ANSWERS], second.attributes[words.ANSWERS]) == (False, True)
    assert second.attributes[words.ASKED_MODEL] == "large"
    assert server.attributes[words.ATTEMPTS] == 2
    assert first.start <= second.start
    assert parent_of(large)[2] == second.span


async def test_a_request_that_failed(collector: Collector, small: Backend) -> None:
    small.plays(hangs_up)
    async with running(traced(small)) as it:
        assert (await it.post()).status_code >= 500
    server, _ = split(collector)
    assert server.failed
    assert server.attributes[words.ERROR] == "backend"


async def test_a_client_that_is_not_trusted_is_linked_to(
    collector: Collector, small: Backend
) -> None:
    async with running(traced(small)) as it:
        it.client.headers.update({"traceparent": PARENT, "tracestate": "vendor=1"})
        await it.post()
    server, [client] = split(collector)
    _, theirs, span, _ = PARENT.split("-")
    assert server.links == [(theirs, span)]
    assert server.parent == ""
    assert server.trace == client.trace != theirs
    assert parent_of(small)[1] == server.trace
    assert "tracestate" not in small.calls[0].headers


async def test_a_client_that_is_trusted_is_the_parent(collector: Collector, small: Backend) -> None:
    async with running(traced(small) | {"tracing": {"trust_clients": True}}) as it:
        it.client.headers.update({"traceparent": PARENT, "tracestate": "vendor=1"})
        await it.post()
        it.client.headers["traceparent"] = PARENT[:-1] + "0"
        await it.post()
    server, [client] = split(collector)
    _, theirs, span, _ = PARENT.split("-")
    assert (server.trace, server.parent, client.trace) == (theirs, span, theirs)
    assert server.links == []
    assert parent_of(small) == ["00", theirs, client.span, "01"]
    assert small.calls[0].headers["tracestate"] == "vendor=1"
    assert parent_of(small, 1)[3] == "00", "whoever records nothing asks nobody else to"


async def test_what_is_not_sampled_is_counted_all_the_same(
    collector: Collector, small: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    async with running(traced(small)) as it:
        await it.post()
    assert collector.spans == []
    assert parent_of(small)[3] == "00"
    assert collector.points["gen_ai.server.request.duration"][0].count == 1


async def test_what_is_counted(collector: Collector, small: Backend) -> None:
    async with running(traced(small)) as it:
        for _ in range(3):
            await it.streamed(model="small")
        small.plays(hangs_up)
        await it.post()
    points = collector.points
    assert set(points) == {
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage",
    }
    by_error = {
        p.labels.get(words.ERROR): p.count for p in points["gen_ai.server.request.duration"]
    }
    assert by_error == {None: 3, "backend": 1}
    tokens = {p.labels[words.TOKEN_TYPE]: p for p in points["gen_ai.client.token.usage"]}
    assert (tokens["input"].total, tokens["output"].total) == (30, 6)
    assert tokens["input"].buckets[:3] == [1, 4, 16]
    [first] = points["gen_ai.server.time_to_first_token"]
    assert first.count == 3
    assert first.labels == {
        words.OPERATION: "chat",
        words.PROVIDER: "tandem",
        words.ASKED_MODEL: "small",
    }


async def test_no_word_of_a_prompt_or_an_answer_is_sent(
    collector: Collector, small: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[bytes] = []
    take = Collector.take

    def keep(self: Collector, path: str, body: bytes) -> None:
        bodies.append(body)
        take(self, path, body)

    monkeypatch.setattr(Collector, "take", keep)
    small.plays(
        answers({**chat_answer(CANARY), "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
        answers({"error": {"message": f"{CANARY} is too long", "code": 400}}, 400),
    )
    asked = {"messages": [{"role": "user", "content": CANARY}], "user": CANARY, "stop": [CANARY]}
    async with running(traced(small)) as it:
        it.client.headers["authorization"] = f"Bearer {CANARY}"
        assert (await it.client.post(CHAT, json=asked)).status_code == 200
        assert (await it.client.post(CHAT, json=asked)).status_code == 400
    assert len(collector.spans) == 4
    assert CANARY.encode() not in b"".join(bodies)


@pytest.mark.slow
@pytest.mark.parametrize("status", [503, 400, None], ids=["full", "refuses", "gone"])
async def test_a_collector_that_fails_reaches_no_answer(
    collector: Collector, small: Backend, monkeypatch: pytest.MonkeyPatch, status: int | None
) -> None:
    collector.status = status or 200
    if status is None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(tracing, "PATIENCE", 0.5)
    async with running(traced(small)) as it:
        assert (await it.post()).status_code == 200
        ended = time.monotonic()
    assert time.monotonic() - ended < PATIENCE
    assert collector.spans == []


async def test_without_the_section_a_trace_passes_through(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    running.client.headers.update({"traceparent": PARENT, "tracestate": "vendor=1"})
    await running.post()
    assert small.calls[0].headers["traceparent"] == PARENT
    assert small.calls[0].headers["tracestate"] == "vendor=1"
    assert (await running.ended()).trace is None


@pytest.mark.slow
def test_without_the_section_the_library_is_not_even_loaded() -> None:
    """Not by Tandem: the client for Redis looks whether it is there."""
    code = "import sys, app.start, app.rooms; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(said.stdout.split())
    assert "app.tracing.tracing" in loaded
    assert not loaded & {"app.tracing.export", "app.tracing.spans", "app.tracing.measures"}
    assert not any(name.startswith("opentelemetry.exporter") for name in loaded)


def test_without_the_library_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "app.tracing.export", None)
    with pytest.raises(TracingError, match=r"pip install 'tandem-gateway\[otel\]'"):
        opened(TracingConfig(), {})


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "zipkin")],
)
def test_what_the_environment_asks_for_in_vain_is_said(name: str, value: str) -> None:
    with pytest.raises(TracingError, match=f"{name} is '{value}'"):
        opened(TracingConfig(), {name: value})


def test_the_environment_can_switch_it_off() -> None:
    assert opened(TracingConfig(), {"OTEL_SDK_DISABLED": "true"}) is None
    assert opened(None, {}) is None


def test_when_too_much_comes_at_once_the_rest_is_dropped_and_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.tracing.export import Exports

    for kind in ("TRACES", "METRICS"):
        monkeypatch.setenv(f"OTEL_{kind}_EXPORTER", "none")
    it = Tracing(TracingConfig(), Exports(), random.Random(0), capacity=2, interval=3600.0)
    for _ in range(5):
        it(ENDED)
    it.close()
    assert "3 requests were not told" in caplog.text


def test_a_name_from_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.tracing.export import Exports

    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    said = Exports({"OTEL_SERVICE_NAME": "mine"}).spans.resource.attributes
    assert said["service.name"] == "mine"
    assert said["deployment.environment.name"] == "test"
    assert said["service.version"]


def test_only_numbers_of_a_request_are_recorded() -> None:
    body = {"messages": MESSAGES, "seed": 3, "temperature": "hot", "top_p": True, "stop": "x"}
    assert words.asked(request(body=body)) == {"gen_ai.request.seed": 3}


def test_kinds_of_spans_are_those_of_the_wire() -> None:
    assert (SpanKind.SERVER.value + 1, SpanKind.CLIENT.value + 1) == (SERVER, CLIENT)


async def test_spans_are_told_while_it_runs(
    collector: Collector, small: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    async with running(traced(small)) as it:
        await it.post()
        async with asyncio.timeout(10):
            while len(collector.spans) < 2:
                await asyncio.sleep(0.01)
