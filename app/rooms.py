"""The rooms put together: the gateway with all it needs, built from one configuration.

No listener and no signal here: what serves it (`app.serve`) and what only tries it out (tests,
benchmarks, `tandem calibrate`) build the same thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from app.decisions import Decisions
from app.gateway import Gateway
from app.keys import Keys
from app.log import Log
from app.member_metrics import members_now
from app.metrics import Metrics, watch_lag
from app.state.hints import Hints
from app.state.journal import StoredJournal
from app.state.member import Member, member_name
from app.state.places import Places, places
from app.state.store import StoreError
from app.together import Together
from app.tracing.tracing import opened
from app.ui.history import History
from app.ui.passing import Passing
from app.ui.recent import Recent
from app.ui.sources import Sources
from policies import TABLE
from router.alarms import Alarms
from router.attempts import Shared
from router.budget import RetryBudget
from router.config import Config, Document
from router.health import Health
from router.observe import Listener, Observers
from router.pool import Pool
from router.revisions import JournalError, Revision, Revisions, Swapped, first
from router.sections import LimitsConfig
from router.sleep import Sleep
from router.upstream import Upstream

logger = logging.getLogger("tandem.state")


@dataclass(frozen=True, slots=True)
class Rooms:
    """What serving is made of, and what the pages are told of it."""

    gateway: Gateway
    revisions: Revisions
    health: Health
    decisions: Decisions
    member: Member
    sources: Sources


@contextlib.asynccontextmanager
async def rooms(
    document: Document, *listeners: Listener, run: Path | None = None
) -> AsyncIterator[Rooms]:
    """The gateway with all it needs, built from `document`; closed in order at the end.

    `run` is the folder of a run of several processes, None if this one is alone.
    """
    where = places(document.config, run)
    journal = StoredJournal(where.shared) if where.together else None
    document, past = await _begun(document, journal)
    config = document.config
    name = member_name()
    keys = await _keys(config, where, name, lambda: member.share)
    log = Log(config.log.file) if config.log else None
    tracing = opened(config.tracing)

    def pools() -> Collection[Pool]:
        return revisions.runtime.pools.values()

    metrics = Metrics(pools, version("tandem-gateway"), lambda: members_now(member))
    together = Together(metrics, run and run / "metrics")
    history, recent = History(together.families), Recent()
    hearing = [each for each in (log, keys, tracing) if each]
    observe = Observers(metrics, recent, *hearing, *listeners)
    decisions = Decisions(config.decisions, observe)
    revisions = Revisions(document, TABLE, observe, journal=journal, past=past)
    told = (Hints(where.shared, name, pools).exchange, Passing(where.shared, name, recent).exchange)
    member = Member(where.shared, revisions, name, told)
    shared = _shared(config.limits, lambda: member.share)
    gateway = Gateway(revisions, shared, observe, together, decisions, keys, tracing)
    health = Health(observe)
    sleep = Sleep(observe, health.look_soon)
    _follow(revisions, sleep.follow, health.follow)  # whoever sleeps is not asked what it can do
    keeping = [watch_lag(metrics), history.keep(), together.keep()]
    if where.together:
        keeping.append(member.keep())
    chores = [asyncio.create_task(c) for c in [*keeping, *([keys.keep()] if keys else [])]]
    try:
        sources = Sources(revisions, gateway, history, recent.decisions, member)
        yield Rooms(gateway, revisions, health, decisions, member, sources)
    finally:
        for chore in chores:
            chore.cancel()
        for close in (sleep.close, health.close, shared.upstream.close, together.close):
            await close()
        shared.alarms.close()
        for closing in (decisions, log, tracing):
            if closing:
                closing.close()
        await _signed_off(where, member, keys)


def _shared(limits: LimitsConfig, share: Callable[[], float]) -> Shared:
    budget = RetryBudget(limits.retry_share, limits.retry_floor, time.monotonic)
    upstream = Upstream(limits.connect)
    return Shared(upstream, budget, Alarms(), random.Random(), time.time, share=share)


def _follow(revisions: Revisions, *followers: Swapped) -> None:
    """Tell these of the Runtime that serves, and of every one after it."""
    for follow in followers:
        revisions.swapped.append(follow)
        follow(revisions.runtime)


async def _signed_off(where: Places, member: Member, keys: Keys | None) -> None:
    """Tell the store what is left to tell."""
    if keys:
        await keys.settle()
    await member.leave()
    await where.close()


async def _begun(
    document: Document, journal: StoredJournal | None
) -> tuple[Document, Sequence[Revision]]:
    """What to serve, and the revisions up to it.

    Without the store it is the file, as a revision before all others: what the store says counts
    as soon as it is there.
    """
    if journal is None:
        return document, ()
    try:
        return await journal.begin(document, TABLE)
    except JournalError as error:
        logger.warning("%s; serving %s until then", error, document.written.source)
        return document, [replace(first(document), number=0)]


async def _keys(
    config: Config, where: Places, member: str, share: Callable[[], float]
) -> Keys | None:
    """The keys, if there are any. What they use is kept with what processes agree on if its own
    place cannot be written: a file of keys is often in a folder that may only be read.
    """
    if config.keys is None:
        return None
    store = where.use
    try:
        await store.change({"use": lambda document, _: document})
    except StoreError as error:
        if store is not where.shared:
            store = where.shared
            logger.warning("%s: what keys spend counts since start only; see `store`", error)
    return Keys(Path(config.keys.file), store, member, share=share, isolate=config.keys.isolate)
