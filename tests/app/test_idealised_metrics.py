"""Idealised runtimes among the metrics: as a scraper sees them, beside the measured ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics
from router.idealised import Ideal
from tests.app.observations import attempt, request


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    page = metrics.render()[0].decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name.startswith("tandem_idealised")
    }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(list, "1.2.3")


def test_a_request_and_its_attempts(metrics: Metrics) -> None:
    small = replace(attempt("small"), ideal=Ideal(0.5, 0.5, 0.01))
    large = replace(attempt("large"), ideal=Ideal(2.0, 8.0))
    metrics(request(attempts=(small, large), ideal=Ideal(2.5, 8.5)))
    found = samples(metrics)
    assert found["tandem_idealised_request_seconds_sum", "auto", "false"] == 2.5
    assert found["tandem_idealised_accelerator_seconds_total", "small", "auto"] == 0.5
    assert found["tandem_idealised_accelerator_seconds_total", "large", "auto"] == 8.0
    assert found["tandem_idealised_cost_usd_total", "small", "auto"] == 0.01
    assert ("tandem_idealised_cost_usd_total", "large", "auto") not in found


def test_what_is_not_known_is_not_counted_as_nothing(metrics: Metrics) -> None:
    metrics(request())
    assert not samples(metrics)
