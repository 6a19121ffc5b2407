"""OpenTelemetry's library, set up from its own environment variables.

Endpoint, headers, protocol, sampling, intervals and the resource come from `OTEL_...`, as its
specification names them; this file adds only the service's name, and ids that are known beforehand:
a backend is told of a span while that is still open, and the span itself is made when it is over.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator

NAME = "tandem"


class Ids(IdGenerator):
    """Gives the ids that were set last; for one thread, which sets them before each span."""

    def __init__(self) -> None:
        self.trace = self.span = 0

    def generate_trace_id(self) -> int:
        """The trace's."""
        return self.trace

    def generate_span_id(self) -> int:
        """The span's."""
        return self.span


class Exports:
    """Where spans and measures go. Connects to nothing before there is something to send."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        resource = Resource.create(_named(environ))
        self.ids = Ids()
        self.spans = TracerProvider(
            resource=resource, id_generator=self.ids, shutdown_on_exit=False
        )
        if environ.get("OTEL_TRACES_EXPORTER") != "none":
            self.spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.measures: MeterProvider | None = None
        if environ.get("OTEL_METRICS_EXPORTER") != "none":
            reader = PeriodicExportingMetricReader(OTLPMetricExporter())
            self.measures = MeterProvider([reader], resource, shutdown_on_exit=False)

    def close(self, patience: float) -> None:
        """Send what is left, for so many seconds at most: a collector may be gone."""
        ending = [
            threading.Thread(target=one.shutdown, name="tandem-tracing-end", daemon=True)
            for one in (self.spans, self.measures)
            if one is not None
        ]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join(patience / len(ending))


def _named(environ: Mapping[str, str]) -> dict[str, str]:
    """What the environment leaves unsaid of who this is."""
    said = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    ours = {
        "service.name": NAME,
        "service.version": version("tandem-gateway"),
        "service.instance.id": str(uuid.uuid4()),
    }
    if environ.get("OTEL_SERVICE_NAME"):
        del ours["service.name"]
    return {name: value for name, value in ours.items() if f"{name}=" not in said}
