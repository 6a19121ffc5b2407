"""`tandem bench experts`: how long the policy `experts` takes to decide.

The policy is driven as the engine drives it, from the request to the step that hands it on, in one
thread: reading the body, features, embedding, every block, the choice. Each prompt is new; then the
same ones again, which are remembered. Last, what the event loop notices of it: the same decisions
in a thread, as the engine makes them, while a clock on the loop says how late it is.

Artifacts are trained on made-up rows when the command begins, or given. Made-up prompts have a
vocabulary of 3,000 words, rare ones seldom, and one word in ten that was never seen before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from app.bench.figures import Figure, Report
    from policies.training.outcomes.rows import Rows
    from router.steps import Policy, Request

__all__ = ["Writer", "add_arguments", "main", "measure"]

WORDS = 100
"""Of a prompt for an artifact that reads no embedding."""
TOKENS = 128
"""Of a prompt for one that does."""
MOST = {"lexical": (0.5, None), "embedding": (8.0, 20.0)}
"""Milliseconds that the median and the 99th percentile may take."""
TICK = 0.001
"""Seconds after which the clock on the event loop wants to be heard again."""
SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "la",
    "me",
    "ni",
    "or",
    "pu",
    "ra",
    "se",
    "ti",
    "vo",
    "ist",
)
PACKAGES = ("numpy", "onnxruntime", "tokenizers")
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Times: TypeAlias = list[float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("--artifact", type=Path, action="append", default=[], metavar="DIR",
        help="of `tandem train experts`; repeatable (default: two are trained)")  # fmt: skip
    add("--rows", type=int, default=2000, metavar="N",
        help="made-up rows that artifacts are trained on (default %(default)s)")  # fmt: skip
    add("--prompts", type=int, default=300, metavar="N",
        help="in a repetition (default %(default)s)")  # fmt: skip
    add("--repetitions", type=int, default=5, metavar="N", help="(default %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON")


def main(options: argparse.Namespace) -> int:
    """Run and print; 1 if a target was missed, 2 if nothing could be measured."""
    for name in ONE_THREAD:
        os.environ[name] = "1"  # before NumPy is imported, which reads it once
    from app.bench.figures import Report, machine, versions

    report = Report({**machine(), "versions": versions(PACKAGES)})
    try:
        with TemporaryDirectory() as folder:
            for artifact in options.artifact or trained(options.rows, Path(folder)):
                figures = measure(artifact, options.prompts, options.repetitions, report)
                report.figures.extend(figures)
    except ModuleNotFoundError as error:
        print(
            f"tandem bench experts: {error.name} is not installed: install tandem-gateway[train], "
            "or name an artifact with --artifact",
            file=sys.stderr,
        )
        return 2
    except ValueError as error:
        print(f"tandem bench experts: {error}", file=sys.stderr)
        return 2
    print(report.as_json() if options.json else report.as_text())
    return 0 if report.met else 1


# -------------------------------------------------------------------------------------- measuring


def measure(artifact: Path, prompts: int, repetitions: int, report: Report) -> Iterator[Figure]:
    """The figures of one artifact. Raises ValueError for one that cannot be used."""
    from app.bench.embedder import quantile
    from app.bench.figures import Target, summary
    from policies import TABLE
    from policies.composition.artifact import read_artifact
    from router.references import build_policy

    card = read_artifact(artifact).card
    kind = "lexical" if card.embedding is None else "embedding"
    if card.embedding is not None and not card.embedding.local:
        raise ValueError(f"{artifact}: a backend makes its embeddings: nothing to measure here")
    policy, complaints = build_policy({"use": "experts", "artifact": str(artifact)}, TABLE)
    if policy is None:
        raise ValueError(complaints[0][1])
    report.remarks.append(f"{kind}: {len(card.experts)} experts, {card.data['rows']} rows")
    writer, timed = Writer(0), Timed([], [], [])
    decide(policy, [writer.request(kind) for _ in range(prompts)])  # caches are warm from here on
    for _ in range(repetitions):
        requests = [writer.request(kind) for _ in range(prompts)]
        before = time.thread_time()
        timed.new.append(decide(policy, requests))
        timed.cpu.append(1e3 * (time.thread_time() - before) / prompts)
        timed.known.append(decide(policy, requests))
    what = f"{WORDS} words" if kind == "lexical" else f"{TOKENS} tokens"
    for share, most, name in zip((0.5, 0.99), MOST[kind], ("p50", "p99"), strict=True):
        values = [quantile(each, share) for each in timed.new]
        target = None if most is None else Target(most, at_least=False)
        note = f"{min(timed.cpu):.3g} ms of CPU at best" if name == "p50" else ""
        yield summary(f"{kind}, {what}: {name}", values, "ms", target, note)
    values = [quantile(each, 0.5) for each in timed.known]
    yield summary(f"{kind}, remembered: p50", values, "ms")
    for name, late in zip(("idle", "deciding"), lateness(policy, kind, prompts), strict=True):
        note = f"p50 {quantile(late, 0.5):.3g} ms"
        yield summary(
            f"{kind}, event loop {name}: late p99", [quantile(late, 0.99)], "ms", note=note
        )


@dataclass(frozen=True, slots=True)
class Timed:
    """By repetition: milliseconds of each new prompt and of each known one, and those of CPU."""

    new: list[Times]
    known: list[Times]
    cpu: Times


def decide(policy: Policy, requests: Sequence[Request]) -> Times:
    """Milliseconds from each request to the step that hands it on."""
    from router.fleet import Fleet
    from router.steps import Compute, Route

    times, fleet = [], Fleet({})
    for request in requests:
        began = time.perf_counter()
        steps = policy.route(request, fleet)
        step = next(steps)
        while not isinstance(step, Route):
            reply = step.function(*step.arguments) if isinstance(step, Compute) else None
            step = steps.send(reply)
        times.append(1e3 * (time.perf_counter() - began))
        steps.close()
    return times


def lateness(policy: Policy, kind: str, prompts: int) -> tuple[Times, Times]:
    """Milliseconds that a clock on an event loop is late: without any work, and beside it."""
    writer = Writer(1)
    requests = [writer.request(kind) for _ in range(prompts)]

    async def work() -> None:
        for request in requests:
            await asyncio.to_thread(decide, policy, [request])

    async def beside(working: bool) -> Times:
        late: Times = []
        wanted = asyncio.create_task(work() if working else asyncio.sleep(0))
        while not wanted.done() or len(late) < prompts:
            began = time.perf_counter()
            await asyncio.sleep(TICK)
            late.append(1e3 * (time.perf_counter() - began - TICK))
        return late

    return asyncio.run(beside(working=False)), asyncio.run(beside(working=True))


# ----------------------------------------------------------------------------------- made-up rows


class Writer:
    """Writes prompts, no two alike."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        common = random.Random("words")
        self._words = [self._word(common) for _ in range(3000)]
        self._weights = [1 / (rank + 3) for rank in range(len(self._words))]

    def prompt(self, words: int) -> str:
        """So many words, one in ten of them new."""
        chosen = self._rng.choices(self._words, self._weights, k=words)
        for at in range(0, words, 10):
            chosen[at] = self._word(self._rng)
        chosen[0] = chosen[0].capitalize()
        return " ".join(chosen) + "?"

    def request(self, kind: str) -> Request:
        """A chat request of `WORDS` words, or of `TOKENS` tokens where those count."""
        from router.steps import Request, Surface

        text = self.prompt(WORDS)
        if kind == "embedding":
            from app.bench.embedder import prompts

            (text,) = prompts(TOKENS, 1, self._rng.randrange(1 << 40))
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        return Request(Surface.CHAT, "auto", body, b"")

    @staticmethod
    def _word(rng: random.Random) -> str:
        syllables = rng.choices(SYLLABLES, k=3)
        return "".join(syllables[: rng.choice((1, 2, 2, 3))])


def made_up(count: int) -> Rows:
    """Rows of three experts and eight tasks, each with some words of its own."""
    import numpy as np

    from policies.training.outcomes.rows import Rows

    rng, writer, tasks = np.random.default_rng(0), Writer(2), [f"task {n}" for n in range(8)]
    worth = rng.random((len(tasks), 3))
    of_rows = rng.integers(0, len(tasks), count)
    prompts = [f"{writer.prompt(int(rng.integers(20, 150)))} {tasks[at]}" for at in of_rows]
    scores = (rng.random((count, 3)) < worth[of_rows]).astype(float)
    named = tuple(tasks[at] for at in of_rows)
    return Rows(tuple(prompts), ("small", "middle", "large"), scores, named)


def trained(count: int, folder: Path) -> Iterator[Path]:
    """Two artifacts, one that reads the form of prompts only and one that embeds them."""
    from tqdm import tqdm

    from policies.composition.artifact import Expert, write_artifact
    from policies.composition.embedder import minilm
    from policies.composition.prior import shipped
    from policies.training.experts.pipeline import Training, steps, train
    from policies.training.experts.recipe import Recipe

    rows = made_up(count)
    experts = tuple(Expert(name, size) for name, size in zip(rows.models, (1, 3, 8), strict=True))
    for training in (
        Training(experts, Recipe(features="lexical", folds=2)),
        Training(experts, Recipe(folds=2), embedder=minilm(), prior=shipped()),
    ):
        name = training.recipe.features
        with tqdm(total=steps(training), desc=f"training, {name}", file=sys.stderr,
                  disable=None) as bar:  # fmt: skip
            made = train(rows, training, lambda _, bar=bar: bar.update())  # type: ignore[misc]
        write_artifact(folder / name, made.card, made.parts)
        yield folder / name
