"""A collector of OTLP over HTTP on a loopback port, which decodes what it gets and keeps it.

The messages are OpenTelemetry's own (`opentelemetry-proto`), read by protobuf; nothing of Tandem's
and nothing of the exporter's is used to read them.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True, slots=True)
class Told:
    """One span as it arrived; ids in hexadecimal, times in nanoseconds since 1970."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    resource: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """One histogram with its labels."""

    labels: dict[str, Any]
    count: int
    total: float
    buckets: list[float]


@dataclass(slots=True)
class Collector:
    """What has come so far."""

    url: str
    status: int = 200
    spans: list[Told] = field(default_factory=list)
    points: dict[str, list[Point]] = field(default_factory=dict)
    requests: int = 0

    def take(self, path: str, body: bytes) -> None:
        """Decode and keep one export."""
        self.requests += 1
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            for group in traces.resource_spans:
                said = _plain(group.resource.attributes)
                self.spans += [_told(s, said) for scope in group.scope_spans for s in scope.spans]
        elif path == "/v1/metrics":
            metrics = ExportMetricsServiceRequest.FromString(body)
            for group in metrics.resource_metrics:
                for metric in (m for scope in group.scope_metrics for m in scope.metrics):
                    self.points[metric.name] = [
                        Point(_plain(p.attributes), p.count, p.sum, list(p.explicit_bounds))
                        for p in metric.histogram.data_points
                    ]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that runs until the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's name
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if collector.status == 200:
                collector.take(self.path, body)
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _told(span: Span, resource: dict[str, Any]) -> Told:
    return Told(
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        failed=span.status.code == 2,
        attributes=_plain(span.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        resource=resource,
    )


def _plain(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind else None
