"""Config swaps under load: none may fail a request, none may be seen half.

Two configs take turns, alike but for the name under which the backends know the model. The mock
backend writes the name it was asked for into every piece of its answers, so each answer says which
config it was made under; it has to be the one that the revision in its header stands for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from time import perf_counter

import httpx

from app.bench.figures import Figure, Target, summary
from app.bench.gateway import KEY, Gateway, document
from app.bench.load import Plan, Result
from app.bench.processes import finish, loading, stop

__all__ = ["measure", "verdict"]

CONNECTIONS = 8
"""For whole answers, and as many for streams: enough that some of either are always in flight."""

LONGEST = 600.0
"""Seconds after which the load ends by itself, should the swaps never come to an end."""

NAMES = ("mark-a", "mark-b")
"""What the model is called at the backends, by turns."""


def measure(
    tandem: Gateway, upstream: int, count: int, cpu: int | None, step: Callable[[str], None]
) -> Iterator[Figure]:
    """Swap `count` times under load, then compare every answer with its revision."""
    trees = [document(upstream, tandem.keys, name) for name in NAMES]
    plans = [
        Plan(tandem.process.port, CONNECTIONS, LONGEST, stream=stream, key=KEY, collect=True)
        for stream in (False, True)
    ]
    meant: dict[str, str] = {}
    seconds = []
    with httpx.Client() as client:
        first = tandem.swap(trees[-1], client)
        meant[str(first)] = NAMES[-1]
        with loading(plans[0], cpu) as whole, loading(plans[1], cpu) as streamed:
            for number in range(count):
                turn = number % len(NAMES)
                began = perf_counter()
                meant[str(tandem.swap(trees[turn], client))] = NAMES[turn]
                seconds.append(1e3 * (perf_counter() - began))
                step("swap")
            results = [finish(stop(process)) for process in (whole, streamed)]
    yield from verdict(meant, results, seconds)


def verdict(meant: dict[str, str], results: list[Result], seconds: list[float]) -> Iterator[Figure]:
    """Failed and mixed answers of the loads; `meant` has a model's name for each revision."""
    marks = Counter[str]()
    for result in results:
        marks.update(result.marks)
    mixed = sum(seen for mark, seen in marks.items() if not _agree(mark, meant))
    failed = sum(result.errors for result in results)
    answered = sum(result.answers for result in results)
    revisions = len({mark.split(":")[0] for mark in marks})
    note = f"of {answered:,} answers under {revisions:,} revisions, {len(seconds):,} swaps"
    none = Target(0, at_least=False)
    yield Figure("swaps: failed requests", failed, failed, failed, "", none, note)
    yield Figure("swaps: mixed answers", mixed, mixed, mixed, "", none)
    yield summary("swaps: one swap under load", seconds, "ms")


def _agree(mark: str, meant: dict[str, str]) -> bool:
    """Whether an answer was made throughout by the config that its revision stands for."""
    revision, _, names = mark.partition(":")
    return meant.get(revision) == names
