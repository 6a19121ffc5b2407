"""`tandem bench embedder`: how long the shipped embedder takes for a prompt, and for many.

One text at a time on one thread, as when a request is routed: tokenizing included, nothing cached,
texts of an exact number of tokens in turns. Then texts of all those lengths at once on all cores,
as when a router is trained. The milliseconds are wall-clock time; on a machine that does other
work, the least CPU time beside them is nearer to what they would be without it.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.bench.figures import Figure, Report
    from policies.composition.embedder import Embedder

__all__ = ["LENGTHS", "Timings", "add_arguments", "main", "measure", "prompts", "quantile"]

LENGTHS = (16, 64, 128, 256)
"""Tokens per text, the two that enclose it included."""
MOST = {128: (8.0, 20.0)}
"""Milliseconds that the median and the 99th percentile may take, where that matters."""
WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work night point"
)
"""Of one token each."""
AT_ONCE = 240
"""Texts of the throughput's measurement, a quarter of each length."""
PACKAGES = ("onnxruntime", "tokenizers", "numpy")


@dataclass(slots=True)
class Timings:
    """Of texts of one length, by repetition: milliseconds of each, and their mean of CPU."""

    wall: list[list[float]] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("--repetitions", type=int, default=5, metavar="N", help="in turns (default %(default)s)")
    add("--texts", type=int, default=100, metavar="N",
        help="texts of each length in a repetition (default %(default)s)")  # fmt: skip
    add("--json", action="store_true", help="print the figures as JSON")


def main(options: argparse.Namespace) -> int:
    """Run and print; 1 if a target was missed, 2 if nothing could be measured."""
    from app.bench.figures import Report, machine, versions
    from policies.composition.embedder import EmbedderError

    report = Report({**machine(), "versions": versions(PACKAGES)})
    try:
        report.figures.extend(_figures(options.repetitions, options.texts, report))
    except EmbedderError as error:
        print(f"tandem bench embedder: {error}", file=sys.stderr)
        return 2
    print(report.as_json() if options.json else report.as_text())
    return 0 if report.met else 1


def measure(
    embedder: Embedder, repetitions: int, texts: int, step: Callable[[], object]
) -> Mapping[int, Timings]:
    """Texts of each length, one at a time; the lengths take turns, so that a disturbance hits all.

    Calls `step` after each repetition of a length.
    """
    found = {length: Timings() for length in LENGTHS}
    for repetition in range(repetitions):
        for length, timings in found.items():
            asked = prompts(length, texts, repetition)
            embedder.embed(asked[:2])  # caches are warm from here on
            before, wall = time.thread_time(), []
            for prompt in asked:
                began = time.perf_counter()
                embedder.embed([prompt])
                wall.append(1e3 * (time.perf_counter() - began))
            timings.cpu.append(1e3 * (time.thread_time() - before) / len(asked))
            timings.wall.append(wall)
            step()
    return found


def prompts(length: int, count: int, seed: int) -> list[str]:
    """Texts of exactly `length` tokens."""
    rng = random.Random(f"{length} {seed}")
    return [" ".join(rng.choices(WORDS.split(), k=length - 2)) for _ in range(count)]


def _figures(repetitions: int, texts: int, report: Report) -> Iterator[Figure]:
    from tqdm import tqdm

    from app.bench.figures import summary
    from policies.composition.embedder import SHIPPED, LocalEmbedder

    began = time.perf_counter()
    embedder = LocalEmbedder(SHIPPED)
    loaded = time.perf_counter() - began
    report.remarks.append(f"embedder: {embedder.name}, fingerprint {embedder.fingerprint}")
    total = repetitions * (len(LENGTHS) + 1)
    with tqdm(total=total, desc="bench", file=sys.stderr, disable=None) as bar:
        for length, timings in measure(embedder, repetitions, texts, bar.update).items():
            yield from _latency(length, timings)
        rates = [_rate(embedder, seed, bar.update) for seed in range(repetitions)]
    yield summary("many texts, all cores", rates, "texts/s", note="of all these lengths alike")
    yield summary("loading, once per process", [loaded], "s")


def _latency(length: int, timings: Timings) -> Iterator[Figure]:
    from app.bench.figures import Target, summary

    for at, (name, share) in enumerate({"p50": 0.5, "p99": 0.99}.items()):
        values = [quantile(wall, share) for wall in timings.wall]
        target = Target(MOST[length][at], at_least=False) if length in MOST else None
        yield summary(f"{length} tokens, one thread: {name}", values, "ms", target)
    yield summary(f"{length} tokens: mean", timings.cpu, "ms of CPU")


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that is at least as large as this share of them."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _rate(embedder: Embedder, seed: int, step: Callable[[], object]) -> float:
    """Texts per second, of all lengths at once."""
    asked = [text for length in LENGTHS for text in prompts(length, AT_ONCE // 4, seed)]
    random.Random(seed).shuffle(asked)
    began = time.perf_counter()
    embedder.embed(asked)
    step()
    return len(asked) / (time.perf_counter() - began)
