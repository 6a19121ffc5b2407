"""Metrics as a scraper sees them: tests read the rendered page, never the listener's insides."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from app.families import MAX_LABEL_SETS, OTHER, Counts, Histogram
from app.member_metrics import members_now
from app.metrics import GAP, OWN, WAIT, Metrics, watch_lag
from router.faults import Blame
from router.observe import (
    BackendChanged,
    Kept,
    Refused,
    RevisionActivated,
    Shadowed,
    ShadowFailed,
)
from router.steps import Surface, Usage
from tests.app.observations import MEMBERS, POOLS, Backend, Pool, attempt, everything, request

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda: POOLS, "1.2.3", lambda: members_now(MEMBERS))


def scrape(metrics: Metrics) -> list[Metric]:
    page, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    return list(text_string_to_metric_families(page.decode()))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The sample with this name and exactly these labels; None if there is none."""
    for family in scrape(metrics):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


# ---------------------------------------------------------------------------------- what is counted


def test_a_request_counts_under_its_policy_surface_and_status(metrics: Metrics) -> None:
    metrics(request())
    metrics(request())
    metrics(request(surface=Surface.EMBEDDINGS, status=502, blame=Blame.BACKEND))

    chat = {"policy": "auto", "surface": "chat/completions", "status": "200"}
    embeddings = {"policy": "auto", "surface": "embeddings", "status": "502"}
    assert value(metrics, "tandem_requests_total", **chat) == 2
    assert value(metrics, "tandem_requests_total", **embeddings) == 1
    assert value(metrics, "tandem_errors_total", policy="auto", fault="backend") == 1


def test_handoffs_are_changes_of_the_writer(metrics: Metrics) -> None:
    first, fired, token = attempt("small"), attempt("small"), attempt("large")
    fired.emitted, first.emitted, token.emitted, token.held = 0, 7, 1, 100
    metrics(request(attempts=(first, token, fired, token, first)))
    metrics(request(attempts=(first,)))

    assert value(metrics, "tandem_handoffs_total", policy="auto") == 2
    assert value(metrics, "tandem_answer_tokens_total", model="large", policy="auto") == 2
    assert value(metrics, "tandem_answer_tokens_total", model="small", policy="auto") == 21
    paid_again = {"model": "large", "policy": "auto", "direction": "prompt"}
    assert value(metrics, "tandem_tokens_total", **paid_again) == 0


def test_tokens_and_cost_count_drafts_but_answer_tokens_do_not(metrics: Metrics) -> None:
    draft = attempt("small", Usage(100, 40, 0), answer=False, cost=0.01)
    answer = attempt("large", Usage(100, 50, 64), cost=0.2)
    metrics(request(attempts=(draft, answer), cost=0.21, baseline=0.2))

    def tokens(model: str, direction: str) -> float | None:
        labels = {"model": model, "policy": "auto", "direction": direction}
        return value(metrics, "tandem_tokens_total", **labels)

    assert tokens("small", "completion") == 40
    assert tokens("large", "prompt") == 100
    assert tokens("large", "cached") == 64
    assert value(metrics, "tandem_answer_tokens_total", model="large", policy="auto") == 50
    assert value(metrics, "tandem_answer_tokens_total", model="small", policy="auto") is None
    assert value(metrics, "tandem_cost_usd_total", model="small", policy="auto") == 0.01
    assert value(metrics, "tandem_cost_usd_total", model="large", policy="auto") == 0.2
    assert value(metrics, "tandem_baseline_usd_total", policy="auto") == 0.2


def test_attempts_count_by_outcome(metrics: Metrics) -> None:
    metrics(request(attempts=(attempt(usage=None, blame=Blame.BUSY), attempt())))
    labels = {"model": "large", "backend": "large.test:8000"}
    assert value(metrics, "tandem_attempts_total", **labels, outcome="busy") == 1
    assert value(metrics, "tandem_attempts_total", **labels, outcome="ok") == 1


def test_reasons_count_only_where_a_policy_gave_one(metrics: Metrics) -> None:
    metrics(request(reason="draft_refused", detail="mean log-probability -1.7"))
    metrics(request(reason=""))
    assert value(metrics, "tandem_reasons_total", policy="auto", reason="draft_refused") == 1
    assert value(metrics, "tandem_reasons_total", policy="auto", reason="") is None
    assert b"log-probability" not in metrics.render()[0]


def test_first_token_and_gaps_are_measured_on_streams_alone(metrics: Metrics) -> None:
    metrics(request(stream=False))
    assert value(metrics, "tandem_time_to_first_token_seconds_count", policy="auto") is None

    metrics(request(stream=True, first_byte=0.3, gaps=(0.01, 0.03, 0.02)))
    assert value(metrics, "tandem_time_to_first_token_seconds_sum", policy="auto") == 0.3
    assert value(metrics, "tandem_inter_token_latency_seconds_count", policy="auto") == 3


def test_overhead_is_what_was_not_waiting_and_never_negative(metrics: Metrics) -> None:
    metrics(request(seconds=1.5, upstream=1.4998))
    metrics(request(seconds=1.5, upstream=1.5000001))
    plain = {"policy": "auto", "stream": "false"}
    assert value(metrics, "tandem_overhead_seconds_bucket", **plain, le="5e-05") == 1
    assert value(metrics, "tandem_overhead_seconds_bucket", **plain, le="0.0003") == 2
    assert value(metrics, "tandem_overhead_seconds_sum", **plain) == pytest.approx(0.0002, abs=1e-9)
    assert value(metrics, "tandem_request_seconds_count", **plain) == 2


def test_a_stream_is_truncated_when_it_began_and_broke_off(metrics: Metrics) -> None:
    metrics(request(stream=True, status=200, blame=Blame.BACKEND))
    metrics(request(stream=True, status=503, blame=Blame.BUSY))  # never began
    metrics(request(stream=True, status=200, blame=Blame.GONE))  # the client's own wish
    metrics(request(stream=False, status=200, blame=Blame.BACKEND))
    name = "tandem_stream_truncated_total"
    assert value(metrics, name, policy="auto", fault="backend") == 1
    assert value(metrics, name, policy="auto", fault="busy") is None
    assert value(metrics, name, policy="auto", fault="gone") is None


def test_streams_without_usage_are_those_that_ended_well_and_did_not_tell(metrics: Metrics) -> None:
    metrics(request(stream=True, attempts=(attempt(usage=None),)))
    metrics(request(stream=True, attempts=(attempt(usage=None, blame=Blame.BACKEND),)))
    metrics(request(stream=False, attempts=(attempt(usage=None),)))
    assert value(metrics, "tandem_streams_without_usage_total", model="large") == 1


def test_estimated_tokens_are_counted_among_all_and_apart(metrics: Metrics) -> None:
    cut = attempt(usage=Usage(100, 7), blame=Blame.GONE, estimated=True)
    metrics(request(stream=True, blame=Blame.GONE, attempts=(cut,)))
    metrics(request(stream=True))
    where = {"model": "large", "policy": "auto"}
    assert value(metrics, "tandem_estimated_tokens_total", **where) == 7
    assert value(metrics, "tandem_tokens_total", **where, direction="completion") == 57


def test_an_attempt_on_its_own_is_not_counted_twice(metrics: Metrics) -> None:
    metrics(attempt())
    metrics(request())
    labels = {"model": "large", "backend": "large.test:8000", "outcome": "ok"}
    assert value(metrics, "tandem_attempts_total", **labels) == 1


def test_refusals_count_by_fault_and_code(metrics: Metrics) -> None:
    metrics(Refused("chat/completions", 401, Blame.CLIENT, "invalid_api_key", None))
    metrics(Refused("../../etc/passwd", 404, Blame.CLIENT, None, None))
    codes = ("invalid_api_key", "none")
    counts = [value(metrics, "tandem_refused_total", fault="client", code=c) for c in codes]
    assert counts == [1, 1]
    assert b"passwd" not in metrics.render()[0]


# ------------------------------------------------------------------------ what is looked at or told


def test_load_and_state_are_those_of_the_moment_of_the_scrape() -> None:
    backend = Backend("l.test:1", 0, "healthy")
    metrics = Metrics(lambda: (Pool("large", (backend,)),), "1")
    where = {"model": "large", "backend": "l.test:1"}
    assert value(metrics, "tandem_in_flight", **where) == 0

    backend.in_flight, backend.state = 7, "open"

    assert value(metrics, "tandem_in_flight", **where) == 7
    assert value(metrics, "tandem_backend_state", **where, state="open") == 1
    assert value(metrics, "tandem_backend_state", **where, state="healthy") == 0


def test_only_the_revision_that_serves_is_shown(metrics: Metrics) -> None:
    assert value(metrics, "tandem_revision") is None
    metrics(RevisionActivated(1, "aaa"))
    metrics(RevisionActivated(2, "bbb"))
    assert value(metrics, "tandem_revision") == 2
    assert value(metrics, "tandem_revision_info", etag="bbb") == 1
    assert value(metrics, "tandem_revision_info", etag="aaa") is None
    assert value(metrics, "tandem_revisions_activated_total") == 2


def test_backend_changes_count_by_the_new_state(metrics: Metrics) -> None:
    metrics(BackendChanged("large", "l.test:1", "open", "5 failures in a row"))
    labels = {"model": "large", "backend": "l.test:1", "state": "open"}
    assert value(metrics, "tandem_backend_changes_total", **labels) == 1


def test_a_shadow_is_counted_beside_what_served(metrics: Metrics) -> None:
    metrics(Shadowed("req-1", "auto", "next", "small", "large", 1, 2, 0.5, 0.7))
    metrics(Shadowed("req-2", "auto", "next", "large", "large", 2, 2, 0.6, 0.6))
    metrics(Shadowed("req-3", "auto", "next", "small", "cascade"))
    metrics(ShadowFailed("req-4", "auto", "next", "error"))
    both = {"policy": "auto", "shadow": "next"}
    assert value(metrics, "tandem_shadow_decisions_total", **both, agreed="true") == 1
    assert value(metrics, "tandem_shadow_decisions_total", **both, agreed="false") == 2
    assert value(metrics, "tandem_shadow_cost_usd_total", **both) == 4
    assert value(metrics, "tandem_shadow_served_usd_total", **both) == 3
    assert value(metrics, "tandem_shadow_unpriced_total", **both) == 1
    assert value(metrics, "tandem_shadow_expected_score_total", **both) == pytest.approx(1.3)
    assert value(metrics, "tandem_shadow_served_expected_score_total", **both) == pytest.approx(1.1)
    assert value(metrics, "tandem_shadow_scored_total", **both) == 2
    assert value(metrics, "tandem_shadow_failures_total", **both, why="error") == 1


def test_lines_of_the_decision_log_count_by_what_became_of_them(metrics: Metrics) -> None:
    metrics(Kept("decision", "logged", 3))
    metrics(Kept("decision", "dropped"))
    metrics(Kept("feedback", "failed", 2))
    assert value(metrics, "tandem_decisions_total", outcome="logged") == 3
    assert value(metrics, "tandem_decisions_total", outcome="dropped") == 1
    assert value(metrics, "tandem_feedback_total", outcome="failed") == 2


def test_a_blocked_loop_shows_as_lag(metrics: Metrics) -> None:
    async def block() -> None:
        watch = asyncio.create_task(watch_lag(metrics, interval=0.001))
        await asyncio.sleep(0)  # it now waits for its first interval
        time.sleep(0.03)  # noqa: ASYNC251  # what nobody may do on a loop
        while not value(metrics, "tandem_event_loop_lag_seconds_count"):  # counts tell nobody
            await asyncio.sleep(0)
        watch.cancel()

    asyncio.run(block())
    assert (value(metrics, "tandem_event_loop_lag_seconds_sum") or 0) > 0.02


# ----------------------------------------------------------------------------------- how it is told


def test_both_formats_parse_and_say_the_same(metrics: Metrics) -> None:
    everything(metrics)
    text, text_type = metrics.render("text/plain")
    open_text, open_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert text_type.startswith("text/plain")
    assert open_type.startswith("application/openmetrics-text")

    def samples(families: Iterable[Metric]) -> dict[tuple[str, str], float]:
        return {
            (sample.name, str(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("tandem_")
        }

    plain = samples(text_string_to_metric_families(text.decode()))
    parse = openmetrics.text_string_to_metric_families
    assert plain == samples(parse(open_text.decode()))  # type: ignore[no-untyped-call]  # untyped library
    assert len(plain) > 100


def test_two_gateways_in_one_process_share_nothing() -> None:
    one, other = Metrics(lambda: (), "1"), Metrics(lambda: (), "1")
    one(RevisionActivated(1, "aaa"))
    assert value(other, "tandem_revisions_activated_total") is None


def test_the_documentation_lists_exactly_what_is_exported(metrics: Metrics) -> None:
    everything(metrics)
    exported = {}
    for family in scrape(metrics):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exported[name] = (family.type, labels)
    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall(DOCS.read_text())
    }

    ours = {name for name in documented if name.startswith("tandem_")}
    assert {name: exported.get(name) for name in ours} == {n: documented[n] for n in ours}
    assert exported.keys() <= documented.keys()  # process_* exist on Linux only


@pytest.mark.parametrize("bounds", [WAIT, GAP, OWN], ids=["wait", "gap", "own"])
def test_buckets_ascend_and_the_documentation_tells_them(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
    assert f"{bounds[0]:g} to {bounds[-1]:g} s" in DOCS.read_text()


# ------------------------------------------------------------------------------------- the families


@given(st.lists(st.floats(0, 500), max_size=200))
def test_many_values_at_once_fall_where_each_falls_alone(values: list[float]) -> None:
    together = Histogram("h", (), "about", WAIT)
    alone = Histogram("h", (), "about", WAIT)
    if values:
        together.observe_all((), values)
    for v in values:
        alone.observe((), v)

    def buckets(histogram: Histogram) -> list[tuple[str, float]]:
        samples = histogram.collect().samples
        return [(str(s.labels), s.value) for s in samples if s.name == "h_bucket"]

    assert buckets(together) == buckets(alone)
    for labels, count in buckets(together):
        bound = float(labels.split("'")[3])
        assert count == sum(v <= bound for v in values)


def test_label_sets_are_bounded_and_nothing_is_lost() -> None:
    counts = Counts("c_total", ("word",), "about")
    for i in range(MAX_LABEL_SETS + 10):
        counts.add((f"junk-{i}",))
    samples = counts.collect().samples
    assert len(samples) == MAX_LABEL_SETS + 1
    assert {s.labels["word"]: s.value for s in samples}[OTHER] == 10


def test_a_known_label_set_still_counts_when_the_family_is_full() -> None:
    counts = Counts("c_total", ("word",), "about")
    for i in range(MAX_LABEL_SETS + 1):
        counts.add((f"junk-{i}",))
    counts.add(("junk-0",))
    assert {s.labels["word"]: s.value for s in counts.collect().samples}["junk-0"] == 2
