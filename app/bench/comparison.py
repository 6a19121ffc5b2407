"""The overhead benchmark itself: starts everything that is compared, loads it, sums it up.

The order of its parts is the order of the report. Each part asks for nothing but running processes;
what they are compared by, and how, is in a module of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from tqdm import tqdm

from app.bench import engine, gateway, latency, memory, rivals, swaps
from app.bench.figures import Figure, Report, Target, machine, ratios, summary
from app.bench.overhead import Options
from app.bench.processes import (
    BenchError,
    Cores,
    Running,
    allow_open_files,
    cores,
    free_port,
    module,
    running,
)
from app.bench.throughput import REQUESTS, STREAMS, Rates, Subject, measure

__all__ = ["backend_process", "compare"]

CHUNKS = 64
"""Events of a stream: a short answer."""

INTERVAL_MS = 4
"""Between two events of a stream: with 512 streams the backend offers 128,000 events/s, about what
a Python relay passes on with a core of its own."""

ROUNDS = 3
"""Times that a thousand streams are opened and abandoned: one to grow, two to show that it ends."""

BUSY = 0.5
"""Load average from which on something else took a share of the time: half a core's worth."""

HALF_LOAD = 0.5
"""Share of the gateway's own rate at which latency is measured."""

TARGETS: Mapping[tuple[str, str], float] = {
    ("bare relay", REQUESTS.name): 0.65,
    ("bare relay", STREAMS.name): 0.7,
    ("litellm", REQUESTS.name): 30.0,
    ("litellm", STREAMS.name): 50.0,
    ("vllm-router", REQUESTS.name): 0.25,
    ("vllm-router", STREAMS.name): 0.7,
}
"""At least so many times the other's rate."""

Step = Callable[[str], None]


def compare(options: Options) -> Report:
    """The whole benchmark."""
    if find_spec("aiohttp") is None:
        raise BenchError(
            "the yardstick is a relay on aiohttp, which is missing: pip install aiohttp"
        )
    allow_open_files()
    report = Report(machine())
    if os.getloadavg()[0] > BUSY:
        report.remarks.append(
            "The machine was busy when this began: trust the ratios per core, not those by clock, "
            "and measure latencies again when it is idle."
        )
    pinned = cores()
    report.machine["cores"] = str(pinned)
    with tqdm(total=_steps(options), disable=not options.progress, unit="part") as bar:

        def step(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tandem-bench-")))
            report.figures += _under_load(options, folder, pinned, step)
        report.figures += engine.measure(options.repetitions, step)
    return report


def _steps(options: Options) -> int:
    proxies = 5 if options.rivals else 3
    loads = options.repetitions * (2 * proxies + 3)
    return loads + ROUNDS + options.swaps + options.repetitions * len(engine.WAYS)


def _under_load(options: Options, folder: Path, pinned: Cores, step: Step) -> list[Figure]:
    """Everything that needs a running gateway."""
    with ExitStack() as stack:
        backend = stack.enter_context(backend_process(pinned))
        tandem = stack.enter_context(gateway.started(backend.port, folder, pinned.subject))
        alone = Subject("backend alone", backend)
        bare = Subject("bare relay", stack.enter_context(_relay(backend, pinned)))
        ours = Subject("tandem", tandem.process, gateway.KEY)
        subjects = [alone, bare, ours]
        if options.rivals:
            subjects += _rivals(backend, folder, pinned, stack)
        rates = measure(subjects, options.repetitions, options.seconds, pinned.load, step)
        figures = list(_rates(subjects, rates))
        half = HALF_LOAD * median(rates[ours.name, REQUESTS.name].per_second)
        turns = (options.repetitions, options.seconds)
        figures += latency.measure((alone, bare, ours), half, turns, pinned.load, step)
        figures += swaps.measure(tandem, backend.port, options.swaps, pinned.load, step)
    with ExitStack() as stack:
        slow = stack.enter_context(backend_process(pinned, memory.INTERVAL_MS))
        tandem = stack.enter_context(gateway.started(slow.port, folder, pinned.subject))
        figures += memory.measure(tandem, ROUNDS, pinned.load, step)
    return figures


@contextmanager
def backend_process(pinned: Cores, interval_ms: int = INTERVAL_MS) -> Iterator[Running]:
    """The mock backend, with `interval_ms` between two events of a stream."""
    port = free_port()
    command = module("app.bench.upstream", port, CHUNKS, interval_ms)
    with running(command, port, cpu=pinned.upstream) as process:
        yield process


@contextmanager
def _relay(backend: Running, pinned: Cores) -> Iterator[Running]:
    port = free_port()
    command = module("app.bench.relay", port, f"http://127.0.0.1:{backend.port}")
    with running(command, port, cpu=pinned.subject) as process:
        yield process


def _rivals(backend: Running, folder: Path, pinned: Cores, stack: ExitStack) -> Iterator[Subject]:
    for rival in (rivals.ROUTER, rivals.LITELLM):
        started = rivals.started(rival, backend.port, folder, pinned.subject)
        process = stack.enter_context(started)
        yield Subject(rival.name, process, rivals.KEY, rival.streams, rival.patience)


def _rates(subjects: Sequence[Subject], rates: Mapping[tuple[str, str], Rates]) -> Iterator[Figure]:
    for case in (REQUESTS, STREAMS):
        for subject in subjects:
            found = rates[subject.name, case.name]
            yield summary(f"{subject.name}: {case.name}", found.per_core, "/s of CPU")
            yield summary(f"{subject.name}: {case.name}", found.per_second, "/s")
    for (other, name), bound in TARGETS.items():
        if (other, name) not in rates:
            continue
        ours, theirs = rates["tandem", name], rates[other, name]
        title = f"tandem / {other}: {name}"
        per_core = ratios(ours.per_core, theirs.per_core)
        yield summary(title, per_core, "per core", Target(bound))
        yield summary(title, ratios(ours.per_second, theirs.per_second), "by clock")
