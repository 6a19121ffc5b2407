"""Requests and streamed events per second: each proxy in turn, again and again.

All proxies run at once and idle while it is not their turn; a repetition asks every one of them in
the same order, so that a disturbance of the machine meets all of them alike.

A proxy's rate is given per second of its own CPU time where that can be read: that is what it
serves on a core that it has for itself, whatever else runs on the machine. Where it cannot, it is
per second on the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.bench.load import Plan
from app.bench.processes import BenchError, Loaded, Running, load

__all__ = ["REQUESTS", "STREAMS", "Case", "Rates", "Subject", "measure"]


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of load. `connections` load a core fully; `warmup` fills streams of all ages."""

    name: str
    stream: bool
    connections: int
    warmup: float


REQUESTS = Case("requests", stream=False, connections=16, warmup=0.5)
STREAMS = Case("chunks", stream=True, connections=512, warmup=2.0)


@dataclass(frozen=True, slots=True)
class Subject:
    """A proxy under test. `streams`: how many at once it is asked for."""

    name: str
    process: Running
    key: str = ""
    streams: int = STREAMS.connections
    patience: float = 1.0
    """How many times longer it is loaded than the others, because it answers so rarely."""

    def plan(self, case: Case, seconds: float) -> Plan:
        """What to load it with."""
        return Plan(
            port=self.process.port,
            connections=self.streams if case.stream else case.connections,
            seconds=seconds * self.patience,
            stream=case.stream,
            warmup=case.warmup * self.patience,
            key=self.key,
        )


@dataclass(slots=True)
class Rates:
    """What one subject did in one case, repetition by repetition."""

    per_core: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)

    def add(self, case: Case, loaded: Loaded) -> None:
        """Count one repetition: answers, or events of streams."""
        done = loaded.result.chunks if case.stream else loaded.result.answers
        self.per_second.append(done / loaded.result.seconds)
        self.per_core.append(done / (loaded.cpu_seconds or loaded.result.seconds))


def measure(
    subjects: Sequence[Subject],
    repetitions: int,
    seconds: float,
    cpu: int | None,
    step: Callable[[str], None],
) -> Mapping[tuple[str, str], Rates]:
    """Rates by subject's and case's name. `step` is told what has just been done."""
    rates: dict[tuple[str, str], Rates] = {}
    for subject, case in _turns(subjects, repetitions):
        loaded = load(subject.plan(case, seconds), subject.process, cpu)
        if loaded.result.errors:
            raise BenchError(
                f"{subject.name} failed {loaded.result.errors} of {case.name}; figures of a proxy "
                f"that refuses its load mean nothing. It said: {loaded.result.complaint}\n"
                f"The end of its output:\n{subject.process.log_tail()}"
            )
        rates.setdefault((subject.name, case.name), Rates()).add(case, loaded)
        step(f"{subject.name}: {case.name}")
    return rates


def _turns(subjects: Sequence[Subject], repetitions: int) -> Iterator[tuple[Subject, Case]]:
    for _ in range(repetitions):
        for case in (REQUESTS, STREAMS):
            for subject in subjects:
                yield subject, case
