"""Serving: puts the rooms together, opens the listeners, and takes everything down in order.

Start: read the config, bind both sockets (so that a port in use is known before anything else
happens), build the first Runtime, ask every backend what it can do, say so, serve. Stop, on SIGINT
or SIGTERM: `/readyz` turns red, no new connection is taken, streams end within a limit, listeners
flush.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import uvicorn

from app.admin import admin_app
from app.admin_audit import note_start
from app.admin_guard import admin_address
from app.audit import Audit
from app.decisions import Decisions
from app.gateway import Gateway
from app.keys import Keys
from app.log import Log
from app.metrics import Metrics, watch_lag
from app.operators import operators_of, renew
from app.report import backends_report, welcome
from app.ui.history import History
from app.ui.recent import Recent
from app.ui.routes import add_ui
from app.ui.sources import Sources, families_of
from policies import TABLE
from router.alarms import Alarms
from router.attempts import Shared
from router.budget import RetryBudget
from router.config import ConfigError, Document
from router.health import Health
from router.observe import Listener, Observers
from router.pool import Pool
from router.revisions import Revisions
from router.runtime import misfits
from router.sleep import Sleep
from router.upstream import Upstream

DRAIN = 30
"""Seconds that streams may take to end after SIGTERM; Kubernetes kills after 30 by default."""
BACKLOG = 2048
"""Connections that may wait to be accepted: a burst of clients is not an error."""
FIRST_LOOK = 20.0
"""Seconds that the start waits to hear from every backend before it serves without them."""


COLLECT_EVERY = (50_000, 20, 50)
"""New objects between two looks of the garbage collector: some 10 MB at most of cycles unfound."""


class ServeError(Exception):
    """Serving cannot begin; the message is one line and says what to do."""


class Listening(uvicorn.Server):
    """A uvicorn server that leaves signals to us: there are two of them in one process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket. Raises `ServeError` in one line if the address is taken or wrong."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:  # the second: a port above 65535
        listener.close()
        why = getattr(error, "strerror", None) or str(error)
        raise ServeError(
            f"cannot listen on {host}:{port}: {why}; choose another port ({setting})"
        ) from None
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


@dataclass(frozen=True, slots=True)
class Rooms:
    """What serving is made of, and what the pages are told of it."""

    gateway: Gateway
    revisions: Revisions
    health: Health
    decisions: Decisions
    sources: Sources


@contextlib.asynccontextmanager
async def rooms(document: Document, *listeners: Listener) -> AsyncIterator[Rooms]:
    """The gateway with all it needs, built from `document`; closed in order at the end."""
    config, limits = document.config, document.config.limits
    keys = Keys(Path(config.keys.file)) if config.keys else None
    log = Log(config.log.file) if config.log else None

    def pools() -> Collection[Pool]:
        return revisions.runtime.pools.values()

    metrics = Metrics(pools, version("tandem-gateway"))
    history, recent = History(families_of(metrics)), Recent()
    kept = [listener for listener in (log, keys) if listener is not None]
    observe = Observers(metrics, recent, *kept, *listeners)
    decisions = Decisions(config.decisions, observe)
    revisions = Revisions(document, TABLE, observe)
    upstream = Upstream(limits.connect)
    budget = RetryBudget(limits.retry_share, limits.retry_floor, time.monotonic)
    alarms = Alarms()
    shared = Shared(upstream, budget, alarms, random.Random(), time.time)
    gateway = Gateway(revisions, shared, observe, metrics, decisions, keys)
    health = Health(observe)
    sleep = Sleep(observe, health.look_soon)
    for follow in (sleep.follow, health.follow):  # whoever sleeps is not asked what it can do
        revisions.swapped.append(follow)
        follow(revisions.runtime)
    chores = [asyncio.create_task(watch_lag(metrics)), asyncio.create_task(history.keep())]
    if keys:
        chores.append(asyncio.create_task(keys.keep()))
    try:
        sources = Sources(revisions, gateway, history, recent.decisions)
        yield Rooms(gateway, revisions, health, decisions, sources)
    finally:
        for chore in chores:
            chore.cancel()
        await sleep.close()
        await health.close()
        await upstream.close()
        alarms.close()
        for closing in (decisions, keys, log):
            if closing:
                closing.close()


@contextlib.asynccontextmanager
async def listening(gateway: Gateway) -> AsyncIterator[str]:
    """The gateway on a free loopback port, whose URL this gives; for benchmarks and tests."""
    listener = bind("127.0.0.1", 0, "a free port")
    server = _server(gateway)
    # Not `serve`: it looks only ten times a second whether to stop, and hundreds of tests wait.
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([listener])
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for accepting in server.servers:
            accepting.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        async with asyncio.timeout(DRAIN):
            state = server.server_state
            while state.connections or state.tasks:  # noqa: ASYNC110  # uvicorn tells nobody
                await asyncio.sleep(0.001)
        listener.close()


@dataclass(frozen=True, slots=True)
class Listen:
    """What the command line says of addresses; None leaves it to the config."""

    host: str | None = None
    port: int | None = None
    admin_port: int | None = None


async def serve(document: Document, listen: Listen, *, embedded: bool = False) -> None:
    """Serve until a signal. Raises one of `app.start.REFUSALS`, in one line, if it cannot."""
    config = document.config
    operators = operators_of(config, os.environ)
    audit = Audit(config.admin.audit) if config.admin.audit else None
    admin_host, admin_said = admin_address(config.admin, operators)
    port = config.listen.port if listen.port is None else listen.port
    admin_port = config.admin.port if listen.admin_port is None else listen.admin_port
    with (
        bind(listen.host or config.listen.host, port, "--port or listen.port") as front,
        bind(admin_host, admin_port, "--admin-port or admin.port") as back,
    ):
        async with rooms(document) as room:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_LOOK):
                    await room.health.probed()
            if problems := tuple(misfits(room.revisions.runtime)):
                raise ConfigError(document.written.source, problems)
            settle()
            print(backends_report(room.revisions.runtime), file=sys.stderr)
            room.revisions.swapped.append(lambda runtime: renew(operators, runtime.config))
            if audit:
                note_start(audit, room.revisions.active)
            admin = admin_app(room.revisions, operators, room.decisions, audit)
            add_ui(admin, room.sources)
            servers = [_server(room.gateway), _server(admin)]
            with _until_signal(room.gateway, servers):
                running = asyncio.gather(
                    *(s.serve([sock]) for s, sock in zip(servers, (front, back), strict=True))
                )
                print(welcome(config, front, back, admin_said, embedded=embedded), flush=True)
                await running


def settle() -> None:
    """Spare the garbage collector what will never be garbage.

    A request makes few cycles, and the default thresholds look for them every 700 objects, through
    all that was ever imported: an eighth of the time of a short request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_EVERY)


def _server(app: object) -> Listening:
    return Listening(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # ours is stricter about its messages than uvicorn's
            http="httptools",
            loop="none",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            access_log=False,
            log_level="warning",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=DRAIN,
        )
    )


@contextlib.contextmanager
def _until_signal(gateway: Gateway, servers: list[Listening]) -> Iterator[None]:
    """SIGINT and SIGTERM drain; a second one stops at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server in servers:
            server.force_exit = gateway.draining
            server.should_exit = True
        gateway.draining = True

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
