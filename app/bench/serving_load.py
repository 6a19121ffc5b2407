"""What `tandem bench serving` measures: the same prompts streamed from two targets, in turns.

A gateway of its own, in a process of its own, stands in front of the config's backends. What
disturbs the machine disturbs both targets, so it is the ratio within a repetition that counts.
Tokens are counted by the answers' own `usage`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import yaml
from tqdm import tqdm

from app import embedded
from app.bench.figures import Figure, Report, machine, ratios, summary
from app.bench.gateway import serving
from app.bench.processes import BenchError
from policies.training.token_gate.prompts import Prompt, read_prompts

PATIENCE = 600.0
"""Seconds for one answer, which may wait for those before it."""
WARM = 16
"""Tokens per answer of a first round that does not count: connections, caches and kernels warm up
in it."""
DATA = "data: "
DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Load:
    """One measurement: `target` answers these prompts, `streams` at a time."""

    target: str
    streams: int
    prompts: Sequence[Prompt]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Rate:
    """What came out: tokens per second of all streams together, median seconds to the first."""

    tokens: float
    first: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: `policy` against a model, by default its large one; how, and how often.

    Each of the `streams` answers `each` prompts. Without a `config` the embedded pair is served.
    """

    policy: str
    prompts: Path
    config: Path | None = None
    against: str | None = None
    streams: tuple[int, ...] = (1, 8, 32)
    each: int = 4
    repetitions: int = 3
    max_tokens: int = 512


async def measure(plan: Plan) -> Report:
    """All of it. Raises `BenchError`, `EmbeddedError`, `TrainingError` or OSError."""
    prompts = read_prompts(plan.prompts)
    async with _tree(plan.config) as tree:
        names = (plan.against or _large(tree, plan.policy), plan.policy)
        loads = [
            Load(name, streams, list(islice(cycle(prompts), streams * plan.each)), longest)
            for longest, times in ((WARM, 1), (plan.max_tokens, plan.repetitions))
            for _ in range(times)
            for streams in plan.streams
            for name in names
        ]
        with serving(tree) as gateway:
            rates = await _all(f"http://127.0.0.1:{gateway.port}", loads)
    report = Report(machine())
    measured = [(load, rate) for load, rate in rates if load.max_tokens != WARM]
    for streams in plan.streams:
        report.figures += _figures(measured, streams, names)
    return report


@asynccontextmanager
async def _tree(config: Path | None) -> AsyncIterator[Mapping[str, Any]]:
    """The configuration, its models running."""
    if config is not None:
        yield yaml.safe_load(config.read_bytes())  # noqa: ASYNC240  # nothing else runs yet
        return
    pair = await embedded.start()
    try:
        yield yaml.safe_load(pair.document)
    finally:
        await pair.close()


def _large(tree: Mapping[str, Any], policy: str) -> str:
    block = (tree.get("policies") or {}).get(policy)
    if block is None:
        raise BenchError(f"the config has no policy {policy}")
    if "large" not in block:
        raise BenchError(f"{policy} has no large model: name one to compare with by --against")
    return str(block["large"])


async def _all(url: str, loads: Sequence[Load]) -> list[tuple[Load, Rate]]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as client:
        bar = tqdm(loads, file=sys.stderr, unit="load")
        return [(load, await _rate(client, load)) for load in bar]


async def _rate(client: httpx.AsyncClient, load: Load) -> Rate:
    gate, began = asyncio.Semaphore(load.streams), time.perf_counter()

    async def one(prompt: Prompt) -> tuple[int, float]:
        async with gate:
            return await _answer(client, load, prompt)

    answered = await asyncio.gather(*map(one, load.prompts))
    seconds = time.perf_counter() - began
    return Rate(sum(n for n, _ in answered) / seconds, median(first for _, first in answered))


async def _answer(client: httpx.AsyncClient, load: Load, prompt: Prompt) -> tuple[int, float]:
    """Its tokens, and the seconds to its first event."""
    body = {
        "model": load.target,
        "messages": prompt.messages,
        "temperature": 0,
        "max_tokens": load.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first, last = time.perf_counter(), 0.0, ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith(DATA) and not line.endswith(DONE):
                first, last = first or time.perf_counter() - began, line
            elif line.startswith("{"):
                last = line  # an error, which is no stream
    usage = json.loads(last.removeprefix(DATA) or "{}").get("usage")
    if usage is None:
        raise BenchError(f"{load.target} failed: {last[:600]}")
    return int(usage["completion_tokens"]), first


def _figures(
    measured: Sequence[tuple[Load, Rate]], streams: int, names: tuple[str, str]
) -> Iterator[Figure]:
    found = {
        name: [rate for load, rate in measured if (load.target, load.streams) == (name, streams)]
        for name in names
    }
    at = f"{streams} stream{'' if streams == 1 else 's'}"
    for name in names:
        yield summary(f"{name}, {at}", [rate.tokens for rate in found[name]], "tokens/s")
        yield summary(f"{name}, {at}: first", [rate.first for rate in found[name]], "s")
    theirs, ours = ([rate.tokens for rate in found[name]] for name in names)
    yield summary(f"{names[1]} / {names[0]}, {at}", ratios(ours, theirs), "x")
