"""What a hand-off between two models costs the gateway: `tandem bench handoffs`.

A gateway process stands in front of the embedded pair, or of the models of a config (two vLLM
servers, say). A token gate that hands over by chance, at several rates, answers the same prompts,
so that tokens and hand-offs vary apart from each other. The gateway's CPU time, read from outside,
is split by least squares into what an answer, a token and a hand-off cost; the interval of each
comes from resampling the batches. Time that the gateway waits does not count. A hand-off is there
and back: one call for one token of the large model's, and one with which the small one goes on.
Beside them the small model answers alone, relayed: what sockets cost, whoever decides.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from tqdm import tqdm

from app import embedded
from app.bench.gateway import TANDEM
from app.bench.processes import BenchError, Running, answers, free_port, running
from deploy.pair.problems import TUNE_SEEDS, problems

RATES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Hand-offs per token of the batches: from none to more than any gate in use would make."""
LENGTHS = (16, 320)
"""Most tokens per answer, in turns: a start of each and all of each (the pair's longest have 150),
so that answers and tokens vary apart from each other."""
PATIENCE = 300.0
"""Seconds for one answer: a real model on a busy CPU is slow, and time is not what is measured."""
RESAMPLED = 2_000
"""Bootstrap samples: enough for two digits of a 95 % interval."""
WANTED = {"answer": None, "relayed token": None, "routed token": 25e-6, "hand-off": 1e-3}
"""Seconds of CPU that each may cost."""
CLOSING = ": tandem "
"""How the comment begins that tells what is known at a stream's end."""
_TURNS = re.compile(r"of (\d+) tokens by .*, in (\d+) turns?")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch of answers used: CPU seconds of the gateway, and counts."""

    cpu: float
    answers: int
    relayed: int = 0
    tokens: int = 0
    handoffs: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds of the gateway per unit, with a 95 % interval; `wanted` is the most."""

    per: str
    microseconds: float
    low: float
    high: float
    wanted: float | None


def measured(options: argparse.Namespace) -> int:
    """Measure and print."""
    try:
        batches = asyncio.run(_measure(options))
    except (BenchError, embedded.EmbeddedError) as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    costs = fitted(batches)
    if options.json:
        print(json.dumps({"costs": [asdict(c) for c in costs], "batches": len(batches)}))
    else:
        print(table(costs))
    return 0


def table(costs: Sequence[Cost]) -> str:
    """The figures for people."""
    lines = [
        f"{c.per:<14} {c.microseconds:10.1f} us   ({c.low:.1f} to {c.high:.1f})"
        + ("" if c.wanted is None else f"   wanted: at most {c.wanted:.0f}")
        for c in costs
    ]
    return "\n".join(["gateway CPU per", *lines])


def fitted(batches: Sequence[Batch]) -> list[Cost]:
    """Least squares of CPU time over answers, tokens and hand-offs."""
    counts = np.array([[b.answers, b.relayed, b.tokens, b.handoffs] for b in batches], dtype=float)
    cpu = np.array([b.cpu for b in batches])
    best = np.linalg.lstsq(counts, cpu)[0]
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(batches), size=(RESAMPLED, len(batches)))
    spread = np.array([np.linalg.lstsq(counts[rows], cpu[rows])[0] for rows in drawn])
    low, high = np.quantile(spread, (0.025, 0.975), axis=0)
    return [
        Cost(per, best[i] * 1e6, low[i] * 1e6, high[i] * 1e6, None if most is None else most * 1e6)
        for i, (per, most) in enumerate(WANTED.items())
    ]


async def _measure(options: argparse.Namespace) -> list[Batch]:
    if options.config is not None:
        return await asyncio.to_thread(_run, yaml.safe_load(options.config.read_text()), options)
    pair = await embedded.start()
    try:
        return await asyncio.to_thread(_run, yaml.safe_load(pair.document), options)
    finally:
        await pair.close()


def _run(tree: Mapping[str, Any], options: argparse.Namespace) -> list[Batch]:
    asked = [problem.prompt for problem in problems(TUNE_SEEDS.start, options.n)]
    pair = {"use": "token_gate", "rule": "random", "small": options.small, "large": options.large}
    policies = {f"by-chance-{rate}": {**pair, "rate": rate} for rate in RATES}
    served = {"models": tree["models"], "policies": policies, "default": next(iter(policies))}
    targets = [options.small, *policies]
    rounds = list(product(range(options.repeat), targets, LENGTHS))
    with _gateway(served) as gateway, httpx.Client(timeout=PATIENCE) as client:
        for name in targets:  # connections, caches and code paths are warm from here on
            _batch(Ask(gateway, client, name, max(LENGTHS)), asked[:2])
        return [
            _batch(Ask(gateway, client, name, length), asked)
            for _, name, length in tqdm(rounds, desc="batches", file=sys.stderr, unit="batch")
        ]


@contextmanager
def _gateway(tree: Mapping[str, Any]) -> Iterator[Running]:
    port, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        config = Path(folder) / "gateway.json"
        config.write_text(json.dumps(tree))
        command = [
            *(sys.executable, "-c", TANDEM, "serve", "--config", str(config)),
            *("--port", str(port), "--admin-port", str(admin)),
        ]
        with running(command, port, cpu=None, ready=lambda _: answers(port)) as process:
            yield process


@dataclass(frozen=True, slots=True)
class Ask:
    """How the prompts of a batch are asked."""

    gateway: Running
    client: httpx.Client
    policy: str
    longest: int

    def answer(self, prompt: str) -> tuple[int, str]:
        """How many events came, and what the stream's closing comment says of its making."""
        body = {
            "model": self.policy,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.longest,
            "stream": True,
        }
        url = f"http://127.0.0.1:{self.gateway.port}/v1/chat/completions"
        with self.client.stream("POST", url, json=body) as response:
            lines = list(response.iter_lines())
        closing = next((line for line in reversed(lines) if line.startswith(CLOSING)), None)
        if closing is None:
            said = " ".join(lines)[:600]
            raise BenchError(f"{self.policy} failed: {said}\n{self.gateway.log_tail()}")
        reason = json.loads(closing.removeprefix(CLOSING))["reason"]
        return sum(line.startswith("data: {") for line in lines), str(reason)


def _batch(ask: Ask, asked: Sequence[str]) -> Batch:
    before, relayed, tokens, handoffs = ask.gateway.cpu_seconds(), 0, 0, 0
    for prompt in asked:
        events, told = ask.answer(prompt)
        if not told:
            relayed += events
        elif found := _TURNS.search(told):
            tokens += int(found[1])
            handoffs += int(found[2])
        else:
            raise BenchError(f"two models did not write the answer: {told}")
    after = ask.gateway.cpu_seconds()
    if before is None or after is None:
        raise BenchError("the CPU time of another process can be read on Linux only")
    return Batch(after - before, len(asked), relayed, tokens, handoffs)
