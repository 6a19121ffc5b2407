"""Doing one thing for many items: a few at a time, with a progress bar, each finding kept at once.

Knows the journal and the bar. Must not know what is done. The first failure stops the stage and is
raised by itself; what was found before it is in the journal, so the next run asks for the rest. So
it does for what brought no finding.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeVar

from tqdm import tqdm

from policies.training.token_gate.journal import Journal, Row

Item = TypeVar("Item")


async def run(
    name: str,
    items: Mapping[str, Item],
    journal: Journal,
    find: Callable[[str, Item], Awaitable[Row | None]],
    at_once: int,
) -> None:
    """Find out about every item that the journal does not have; items go by their row's id."""
    missing = iter([id_ for id_ in items if id_ not in journal])
    known = sum(id_ in journal for id_ in items)
    with tqdm(total=len(items), initial=known, desc=name, file=sys.stderr) as bar:

        async def work(ids: Iterator[str]) -> None:
            for id_ in ids:  # shared: whoever is free takes the next
                if (row := await find(id_, items[id_])) is not None:
                    journal.add(row)
                bar.update()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(work(missing))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
