"""One key, many processes, more requests than it can pay: `python -m tests.bench.budgets`.

Each process admits calls of one key as a gateway does (`app.keys`), with so many under way at once,
whose costs are drawn; all share one store. What was spent in truth is added up by the processes
themselves and held against the limit. A lease is a hundredth of the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from app.account import PARTS
from app.keys import Admitted, Keys, new_key
from app.state.redis import RedisStore
from app.state.sqlite import SqliteStore
from tests.app.observations import request
from tests.state.servers import redis

LIMIT = 1.0
"""USD."""
AT_ONCE = 16
"""Calls under way in each process."""
MEAN = 0.0004
"""USD a call, log-normally spread: the dearest of ten thousand cost some twenty times as much."""


@dataclass(frozen=True, slots=True)
class Order:
    """What one process does."""

    keys: str
    secret: str
    store: str
    requests: int
    seed: int


@dataclass(frozen=True, slots=True)
class Found:
    """What happened in all processes together; in USD where it is money."""

    workers: int
    requests: int
    admitted: int
    refused: int
    spent: float
    limit: float
    overspent: float
    leases: float


async def work(order: Order) -> tuple[int, float]:
    """Make the calls; gives how many were admitted, and what they cost."""
    url = "://" in order.store
    store = RedisStore(order.store) if url else SqliteStore(Path(order.store))
    keys = Keys(Path(order.keys), store, f"process-{order.seed}")
    headers = [(b"authorization", f"Bearer {order.secret}".encode())]
    rng, left, spent, admitted = random.Random(order.seed), order.requests, 0.0, 0
    settling = asyncio.create_task(keys.keep())

    async def caller() -> None:
        nonlocal left, spent, admitted
        while left > 0:
            left -= 1
            call = await keys.admit(headers)
            if not isinstance(call, Admitted):
                await asyncio.sleep(0.001)
                continue
            cost = MEAN * rng.lognormvariate(-0.5, 1.0)
            await asyncio.sleep(rng.expovariate(1 / 0.01))
            keys(request(key="alice", cost=cost))
            call.leave()
            spent += cost
            admitted += 1

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    settling.cancel()
    await keys.settle()
    await store.close()
    return admitted, spent


def measure(store: str, folder: Path, workers: int = 8, requests: int = 10_000) -> Found:
    """Let them all loose on one store, and add up."""
    secret, entry = new_key("alice")
    keys = folder / "keys.yaml"
    keys.write_text("keys:\n" + entry.model_copy(update={"spend_usd": LIMIT}).yaml())
    orders = [Order(str(keys), secret, store, requests // workers, seed) for seed in range(workers)]
    command = [sys.executable, "-m", "tests.bench.budgets", "--order"]
    children = [
        subprocess.Popen([*command, json.dumps(asdict(order))], stdout=subprocess.PIPE)
        for order in orders
    ]
    results = [json.loads(child.communicate()[0]) for child in children]
    admitted, spent = sum(r[0] for r in results), sum(r[1] for r in results)
    return Found(
        workers=workers,
        requests=workers * (requests // workers),
        admitted=admitted,
        refused=workers * (requests // workers) - admitted,
        spent=spent,
        limit=LIMIT,
        overspent=max(spent - LIMIT, 0.0),
        leases=workers * LIMIT / PARTS,
    )


def main() -> None:
    """Measure on both kinds of store, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--order", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.order:
        print(json.dumps(asyncio.run(work(Order(**json.loads(options.order))))))
        return
    with tempfile.TemporaryDirectory() as name, redis(Path(name)) as server:
        for kind, store in (("sqlite", f"{name}/state.sqlite"), ("redis", server.url)):
            found = measure(store, Path(name), options.workers, options.requests)
            if options.json:
                print(json.dumps({"store": kind, **asdict(found)}))
            else:
                print(
                    f"{kind}: {found.workers} processes, {found.requests} calls, {found.admitted}"
                    f" admitted; spent {found.spent:.4f} of {found.limit:g} USD, overspent"
                    f" {found.overspent:.4f} (leases {found.leases:.2f})"
                )


if __name__ == "__main__":
    main()
