"""How long the policy `context` takes from a request with a long document to the one it hands on.

All of it, as it is served: the document is found in the body, searched, the question judged, a
reading chosen, and the body written anew. One document, its questions one after the other, on one
core where the system allows it; the first question again and again, of a policy that has seen
nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from app.bench.retrieval_speed import (
    FIRST_SECONDS,
    LATER_MS,
    Load,
    asks_of,
    document,
    one_core,
)

if TYPE_CHECKING:
    from app.bench.figures import Figure, Report
    from app.bench.retrieval_rows import Rows
    from router.fleet import Fleet
    from router.steps import Policy, Request

__all__ = ["measure"]

READERS = ("small", "large")
BUDGET_MB = 256


def measure(rows: Rows, load: Load, report: Report) -> Iterator[Figure]:
    """The figures of one long document."""
    from tqdm import tqdm

    from app.bench.embedder import quantile
    from app.bench.figures import Target, summary
    from policies.composition.embedder import minilm
    from policies.reading.shelf import shared

    first: list[float] = []
    later: list[list[float]] = []
    with one_core() as core:
        text, asks = document(rows, load.tokens), asks_of(rows, load.asks + 1)
        requests = [_request(text, ask) for ask in asks]
        _decided(_targets(1000), _request(text[:20_000], asks[0]))  # libraries are loaded from here
        rounds = range(load.repetitions)
        for number in tqdm(rounds, desc="decisions", file=sys.stderr, disable=None):
            budget = BUDGET_MB + number  # another one each time: a shelf that has seen nothing
            targets = _targets(budget)
            first.append(_decided(targets, requests[0]))
            shared(budget, minilm().fingerprint).settle()
            later.append([1e3 * _decided(targets, each) for each in requests[1:]])
    where = f"core {core}" if core is not None else "all cores"
    size = len(requests[0].raw)
    report.remarks.append(f"decision: {size:,} bytes, {load.tokens:,} tokens, on {where}")
    most = Target(FIRST_SECONDS, at_least=False)
    yield summary("decision, first question", first, "s", most)
    for share, quantity in ((0.5, "p50"), (0.99, "p99")):
        figures = [quantile(each, share) for each in later]
        target = Target(LATER_MS, at_least=False)
        yield summary(f"decision, later questions: {quantity}", figures, "ms", target)


def _request(text: str, ask: str) -> Request:
    import orjson

    from router.steps import Request, Surface

    messages = [{"role": "user", "content": f"<document>{text}</document>\n\n{ask}"}]
    body = {"model": "read", "messages": messages}
    return Request(Surface.CHAT, "read", body, orjson.dumps(body))


def _targets(megabytes: float) -> Mapping[str, Policy]:
    """A policy that has seen nothing, and the models that it chooses among."""
    from policies import TABLE
    from router.references import build_policy

    blocks: dict[str, dict[str, Any]] = {
        "read": {
            "use": "context",
            "readers": {name: {} for name in READERS},
            "memory_mb": megabytes,
        },
        **{name: {"use": "direct", "model": name} for name in READERS},
    }
    built = {name: build_policy(block, TABLE)[0] for name, block in blocks.items()}
    return {name: policy for name, policy in built.items() if policy is not None}


def _fleet() -> Fleet:
    """Two models whose windows hold everything: nobody has to count tokens for them."""
    from router.fleet import Abilities, Fleet, ModelView, Price

    views = {
        name: ModelView(name, size, 1_000_000, Price(size / 20, size / 5), Abilities(), 1, 0)
        for name, size in zip(READERS, (8.0, 70.0), strict=True)
    }
    return Fleet(MappingProxyType(views))


def _decided(targets: Mapping[str, Policy], request: Request) -> float:
    """Seconds until it is known who reads what."""
    from router.decide import decided

    fleet = _fleet()
    began = time.perf_counter()
    decision = decided("read", request, targets, fleet)
    took = time.perf_counter() - began
    assert decision.arm in READERS, decision
    return took
