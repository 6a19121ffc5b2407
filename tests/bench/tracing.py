"""What tracing costs a whole gateway: CPU microseconds per request, off, sampled and on.

Run it as `python -m tests.bench.tracing`: two minutes. The gateway is on one core, backend and load
on another; the collector takes what it can get. Each line has the least and the most of three
rounds, for requests with one short answer each.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from app.bench.gateway import KEY, started
from app.bench.load import Plan
from app.bench.processes import answers, cores, free_port, load, module, running
from tests.tracing.collector import collecting

ROUNDS = 3
SECONDS = 5.0
CHUNKS, INTERVAL_MS = 64, 2
"""Of the backend's streams, which nobody asks for here."""
CASES: dict[str, dict[str, str] | None] = {
    "off": None,
    "one in a hundred recorded": {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    },
    "all recorded": {"OTEL_TRACES_SAMPLER": "parentbased_always_on"},
}


def measured(environment: dict[str, str] | None) -> float:
    """One round of one case."""
    os.environ.update(environment or {})
    tracing: dict[str, object] | None = None if environment is None else {"tracing": {}}
    both, port = cores(), free_port()
    backend = module("app.bench.upstream", port, CHUNKS, INTERVAL_MS)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(backend, port, cpu=both.upstream, ready=answers),
        started(port, Path(folder), both.subject, tracing) as gateway,
    ):
        plan = Plan(gateway.process.port, connections=16, seconds=SECONDS, key=KEY)
        used = load(plan, gateway.process, both.load).cpu_us_per_answer
        assert used is not None
        return used


def main() -> None:
    found: dict[str, list[float]] = {name: [] for name in CASES}
    with collecting() as collector:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
        for _ in range(ROUNDS):
            for name, environment in CASES.items():
                found[name].append(measured(environment))
    for name, rounds in found.items():
        print(f"{name:<28}{min(rounds):>6.0f} .. {max(rounds):.0f} us")


if __name__ == "__main__":
    main()
