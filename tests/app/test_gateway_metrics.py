"""Known traffic, exact counts: what the metrics page says after it, and what the log says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Started
from tests.running import config, eventually
from tests.scripted import (
    DONE,
    Backend,
    answers,
    chat_answer,
    chunk,
    logprobs,
    streams,
    usage_event,
)


async def test_known_traffic_has_exact_counts(
    gateway: Started, small: Backend, large: Backend, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    tree = config(
        {"small": small, "large": large},
        policies={
            "auto": {"use": "cascade", "small": "small", "large": "large", "mean_logprob": -0.1}
        },
        log={"file": str(log)},
    )
    tree["models"]["large"]["price"] = {"input": 10.0, "output": 20.0}
    running = await gateway(tree)
    sure, unsure = logprobs(-0.01), logprobs(-1.0)
    small.plays(
        answers(chat_answer(said={"logprobs": sure})),
        answers(chat_answer(said={"logprobs": unsure})),
        streams(chunk({"content": "a"}, logprobs=sure), usage_event(prompt=5, completion=3), DONE),
        answers({"error": {"message": "too long"}}, 400),
        answers({"error": {"message": "dead"}}, 500),
        streams(chunk({"content": "a"})),
    )
    for model, stream in (
        ("auto", False), ("auto", False), ("auto", True), ("small", False), ("small", False),
        ("small", True), ("large", False), ("nobody", False),
    ):  # fmt: skip
        await running.post(model=model, stream=stream)
    await running.ended(7)
    seen = await running.metrics()
    chat = "chat/completions"
    assert seen["tandem_requests_total"] == {
        ("auto", "200", chat): 3, ("small", "400", chat): 1, ("small", "502", chat): 1,
        ("small", "200", chat): 1, ("large", "200", chat): 1,
    }  # fmt: skip
    assert seen["tandem_errors_total"] == {("client", "small"): 1, ("backend", "small"): 2}
    assert seen["tandem_refused_total"] == {("model_not_found", "client"): 1}
    assert seen["tandem_stream_truncated_total"] == {("backend", "small"): 1}
    assert seen["tandem_reasons_total"] == {
        ("auto", "draft_accepted"): 2, ("auto", "draft_rejected"): 1,
    }  # fmt: skip
    assert seen["tandem_attempts_total"] == {
        (small.name, "small", "ok"): 3, (small.name, "small", "client"): 1,
        (small.name, "small", "backend"): 2, (large.name, "large", "ok"): 2,
    }  # fmt: skip
    tokens = seen["tandem_tokens_total"]
    assert tokens["completion", "small", "auto"] == 2 + 2 + 3
    assert tokens["prompt", "small", "auto"] == 10 + 10 + 5
    assert tokens["completion", "large", "auto"] == 2
    answered = seen["tandem_answer_tokens_total"]
    assert (answered["small", "auto"], answered["large", "auto"]) == (2 + 3, 2)
    cost = seen["tandem_cost_usd_total"]
    assert cost["small", "auto"] == pytest.approx((25 * 1 + 7 * 2) / 1e6)
    assert cost["large", "auto"] == pytest.approx((10 * 10 + 2 * 20) / 1e6)
    assert seen["tandem_baseline_usd_total"]["auto",] == pytest.approx(
        ((10 + 10 + 5) * 10 + (2 + 2 + 3) * 20) / 1e6
    )
    assert seen["tandem_in_flight"] == {(small.name, "small"): 0, (large.name, "large"): 0}
    assert seen["tandem_time_to_first_token_seconds_count"] == {("auto",): 1, ("small",): 1}
    assert seen["tandem_request_seconds_count"]["auto", "false"] == 2
    assert seen["tandem_overhead_seconds_count"]["auto", "true"] == 1
    assert seen["tandem_revision"] == {(): 1}
    await eventually(lambda: log.read_text().count('"request"') == 7)  # a thread writes it
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    requests = [row for row in rows if row["event"] == "request"]
    assert [row["status"] for row in requests] == [200, 200, 200, 400, 502, 200, 200]
    assert [row["reason"] for row in requests[:3]] == [
        "draft_accepted", "draft_rejected", "draft_accepted",
    ]  # fmt: skip
    assert [row["tokens"] for row in requests[:3]] == [{"small": 2}, {"large": 2}, {"small": 3}]


async def test_a_prometheus_scrapes_open_metrics_too(gateway: Started, small: Backend) -> None:
    running = await gateway(config({"small": small}))
    plain = await running.client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    kind = "application/openmetrics-text; version=1.0.0"
    opened = await running.client.get("/metrics", headers={"accept": kind})
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert opened.text.endswith("# EOF\n")


async def test_idealised_runtimes_stand_beside_what_was_measured(
    gateway: Started, small: Backend, large: Backend, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    tree = config(
        {"small": small, "large": large},
        policies={
            "auto": {"use": "cascade", "small": "small", "large": "large", "mean_logprob": -0.1}
        },
        log={"file": str(log)},
    )
    models = tree["models"]
    models["small"]["idealised"] = {"call": 0.5, "prefill": 0.01, "decode": 0.1}
    models["large"] |= {"idealised": {"decode": 2.0}, "accelerators": 3, "usd_per_hour": 1200}
    del models["large"]["price"]
    running = await gateway(tree)
    small.plays(answers(chat_answer(said={"logprobs": logprobs(-1.0)})))
    response = await running.post(model="auto")
    await running.ended(1)
    draft, answer = 0.5 + 10 * 0.01 + 2 * 0.1, 2 * 2.0  # of 10 and 2 tokens, both
    seen = await running.metrics()
    assert seen["tandem_idealised_request_seconds_sum"]["auto", "false"] == pytest.approx(
        draft + answer
    )
    busy = seen["tandem_idealised_accelerator_seconds_total"]
    assert busy["small", "auto"] == pytest.approx(draft)
    assert busy["large", "auto"] == pytest.approx(3 * answer)
    usd = 3 * answer * 1200 / 3600
    assert seen["tandem_idealised_cost_usd_total"] == {("large", "auto"): pytest.approx(usd)}
    assert seen["tandem_cost_usd_total"]["large", "auto"] == pytest.approx(usd), "it has no price"
    assert float(response.headers["x-tandem-cost-usd"]) == pytest.approx(usd + 14e-6)
    await eventually(lambda: log.exists() and '"request"' in log.read_text())
    (line,) = [
        row for row in map(json.loads, log.read_text().splitlines()) if row["event"] == "request"
    ]
    assert line["idealised_seconds"] == pytest.approx(draft + answer)
    assert line["idealised_usd"] is None, "of the draft nobody has said what an hour costs"
    assert [attempt["idealised_usd"] for attempt in line["attempts"]] == [None, pytest.approx(usd)]
