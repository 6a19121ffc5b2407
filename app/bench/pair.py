"""`tandem bench pair`: quality and cost of policies on the embedded pair, on problems with answers.

The whole of Tandem is in the loop: both model servers, a gateway on a loopback port, HTTP. Each
policy answers the same problems, greedily; what is counted comes from the gateway's own
observations, so the table and the metrics cannot disagree. Accuracy comes with a Wilson interval.

Seeds that training or tuning may have seen are refused unless they are asked for by name.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import httpx
import uvloop
from tqdm import tqdm

from app import embedded
from app.bench.processes import BenchError
from app.serve import listening, rooms
from deploy.pair.problems import REPORT_SEED_FROM, Problem, is_correct, problems
from policies import TABLE
from router.config import parse
from router.cost import active_params
from router.observe import AttemptEnded, Observation, RequestEnded

POLICIES = ("small", "large", "auto")
"""What is measured if nothing is said."""
AT_ONCE = 8
"""Requests in flight: enough to keep two cores busy."""
PATIENCE = 120.0
"""Seconds for one answer on a busy machine; a second is usual."""
LONGEST = 320
"""Tokens per answer; the longest worked solution has 150."""
Z95 = 1.959964
"""Standard normal quantile of a 95 % interval."""


@dataclass(slots=True)
class Collected:
    """A listener that keeps the attempts of every request."""

    requests: list[tuple[AttemptEnded, ...]] = field(default_factory=list)

    def __call__(self, observation: Observation) -> None:
        """Keep them."""
        if isinstance(observation, RequestEnded):
            self.requests.append(observation.attempts)


@dataclass(frozen=True, slots=True)
class Row:
    """One policy: `avg_params` in millions per token of the answer, `seconds` of wall time."""

    policy: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    large_share: float
    avg_params: float
    handoffs_per_100: float
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    add("--seed", type=int, default=REPORT_SEED_FROM, help="of the problems (default: %(default)s)")
    add("--n", type=int, default=500, help="problems per policy (default: %(default)s)")
    add("--policy", action="append", metavar="NAME", help=f"default: {', '.join(POLICIES)}")
    add("--config", metavar="YAML", help="policies to add, as a YAML mapping of name to block")
    add("--tuning", action="store_true", help="allow seeds that are for training and tuning")
    add("--json", action="store_true", help="print the rows as JSON")


def main(options: argparse.Namespace) -> int:
    """Measure and print."""
    if options.seed < REPORT_SEED_FROM and not options.tuning:
        print(
            f"tandem: seeds below {REPORT_SEED_FROM} are for training and tuning and never "
            "reported on; add --tuning if that is what you do",
            file=sys.stderr,
        )
        return 2
    asked = list(problems(options.seed, options.n))
    try:
        rows = uvloop.run(_measure(options.policy or POLICIES, asked, options.config))
    except (BenchError, embedded.EmbeddedError) as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"rows": [asdict(row) for row in rows]}) if options.json else table(rows))
    return 0


def table(rows: Iterable[Row]) -> str:
    """The rows for people."""
    head = "policy          accuracy (95 %)          large share   params (M)   hand-offs/100   s"
    lines = [
        f"{r.policy:<14} {r.accuracy:7.1%} ({r.accuracy_low:.1%} to {r.accuracy_high:.1%})"
        f" {r.large_share:12.1%} {r.avg_params:12.3f} {r.handoffs_per_100:13.2f} {r.seconds:7.1f}"
        for r in rows
    ]
    return "\n".join([head, *lines])


async def _measure(
    policies: Sequence[str], asked: Sequence[Problem], more: str | None
) -> list[Row]:
    pair = await embedded.start()
    try:
        text = pair.document
        if more:
            text = text.replace("policies:\n", f"policies:\n  {more}\n", 1)
        document = parse(text, TABLE, "the embedded pair")
        collected = Collected()
        async with rooms(document, collected) as room, listening(room.gateway) as url:
            await room.health.probed()
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
                return [await _row(client, policy, asked, collected) for policy in policies]
    finally:
        await pair.close()


async def _row(
    client: httpx.AsyncClient, policy: str, asked: Sequence[Problem], collected: Collected
) -> Row:
    collected.requests.clear()
    gate, began = asyncio.Semaphore(AT_ONCE), time.perf_counter()

    async def right(problem: Problem) -> bool:
        async with gate:
            return is_correct(await _answer(client, policy, problem), problem)

    with tqdm(total=len(asked), desc=policy, file=sys.stderr, unit="problem") as bar:
        correct = 0
        for done in asyncio.as_completed([right(problem) for problem in asked]):
            correct += await done
            bar.update()
    seconds = time.perf_counter() - began
    low, high = wilson(correct, len(asked))
    every = [attempt for attempts in collected.requests for attempt in attempts]
    return Row(
        policy=policy,
        accuracy=correct / len(asked),
        accuracy_low=low,
        accuracy_high=high,
        large_share=_share(every, "large"),
        avg_params=active_params(every, embedded.PARAMS_B) * 1000,
        handoffs_per_100=_handoffs(collected.requests),
        seconds=seconds,
    )


async def _answer(client: httpx.AsyncClient, policy: str, problem: Problem) -> str:
    body = {
        "model": policy,
        "messages": [{"role": "user", "content": problem.prompt}],
        "temperature": 0,
        "max_tokens": LONGEST,
    }
    response = await client.post("/v1/chat/completions", json=body)
    if not response.is_success:
        raise BenchError(f"{policy} failed: {response.text[:600]}")
    return str(response.json()["choices"][0]["message"]["content"])


def _written(attempts: Iterable[AttemptEnded], model: str | None = None) -> int:
    """Tokens of answers, by this model or by all."""
    return sum(a.written for a in attempts if model in (None, a.model))


def _share(attempts: Sequence[AttemptEnded], model: str) -> float:
    return _written(attempts, model) / max(_written(attempts), 1)


def _handoffs(requests: Iterable[tuple[AttemptEnded, ...]]) -> float:
    """Changes of the writing model per 100 tokens of the answers."""
    changes = tokens = 0
    for attempts in requests:
        writers = [a.model for a in attempts if a.written]
        changes += sum(a != b for a, b in pairwise(writers))
        tokens += _written(attempts)
    return 100 * changes / max(tokens, 1)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    p, z2 = successes / n, Z95 * Z95
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
