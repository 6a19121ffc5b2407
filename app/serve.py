"""Serving: opens the listeners, serves the rooms, and takes everything down in order.

Start: bind both sockets (so that a port in use is known before anything else happens), build the
rooms, ask every backend what it can do, say so, serve. Stop, on SIGINT or SIGTERM: `/readyz` turns
red; for as long as the configuration says everything is still answered, each connection for the
last time; then no new one is taken, streams end within a limit, listeners flush.

With several processes (`app.workers`) the sockets come from the one that started them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from app.admin import admin_app
from app.admin_audit import note_start
from app.admin_guard import admin_address
from app.audit import Audit
from app.connection import Connection
from app.gateway import Gateway
from app.operators import operators_of, renew
from app.report import backends_report, welcome
from app.rooms import Rooms, rooms
from app.ui.routes import add_ui
from router.config import Config, ConfigError, Document
from router.runtime import misfits
from router.sections import LimitsConfig

DRAIN = 30
"""Seconds that streams may take to end in benchmarks and tests."""
BACKLOG = 2048
"""Connections that may wait to be accepted: a burst of clients is not an error."""
LAST_WORDS = 0.5
"""Seconds that a request may need from a client to a connection that was open when it set out."""
FIRST_LOOK = 20.0
"""Seconds that the start waits to hear from every backend before it serves without them."""


COLLECT_EVERY = (50_000, 20, 50)
"""New objects between two looks of the garbage collector: some 10 MB at most of cycles unfound."""


class ServeError(Exception):
    """Serving cannot begin; the message is one line and says what to do."""


class Listening(uvicorn.Server):
    """A uvicorn server that leaves signals to us, since there are two of them in one process, and
    that hears what is on its way: a connection that is open and silent may be about to ask.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no connection any more; let those that there are ask for the last time; end."""
        for server in self.servers:
            server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                while self.server_state.connections and not self.force_exit:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # uvicorn tells nobody
        await super().shutdown(sockets)

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


@contextlib.asynccontextmanager
async def listening(gateway: Gateway | FastAPI) -> AsyncIterator[str]:
    """The gateway on a free loopback port, whose URL this gives; for benchmarks and tests."""
    listener = bind("127.0.0.1", 0, "a free port")
    server = _server(gateway, gateway.patience if isinstance(gateway, Gateway) else ample)
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


@dataclass(frozen=True, slots=True)
class Sockets:
    """Both listeners' sockets, and a sentence that explains who may use the second."""

    front: socket.socket
    back: socket.socket
    admin_said: str


@contextlib.contextmanager
def sockets(config: Config, listen: Listen) -> Iterator[Sockets]:
    """Both sockets, bound; raises `ServeError` in one line if one cannot be."""
    host, said = admin_address(config.admin, operators_of(config, os.environ))
    port = config.listen.port if listen.port is None else listen.port
    admin_port = config.admin.port if listen.admin_port is None else listen.admin_port
    with (
        bind(listen.host or config.listen.host, port, "--port or listen.port") as front,
        bind(host, admin_port, "--admin-port or admin.port") as back,
    ):
        yield Sockets(front, back, said)


async def serve(document: Document, listen: Listen, *, embedded: bool = False) -> None:
    """Serve until a signal. Raises one of `app.start.REFUSALS`, in one line, if it cannot."""
    with sockets(document.config, listen) as both:

        def up(room: Rooms) -> None:
            print(backends_report(room.revisions.runtime), file=sys.stderr)
            said = welcome(
                document.config, both.front, both.back, both.admin_said, embedded=embedded
            )
            print(said, flush=True)

        await serve_on(document, both, up)


async def serve_on(
    document: Document, both: Sockets, up: Callable[[Rooms], None], run: Path | None = None
) -> None:
    """Serve on these sockets until a signal; `up` is called when everything is about to answer."""
    async with rooms(document, run=run) as room:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await room.health.probed()
        if problems := tuple(misfits(room.revisions.runtime)):
            raise ConfigError(document.written.source, problems)
        settle()
        drain = document.config.drain
        apps = (room.gateway, _admin(document, room))
        patience = room.gateway.patience
        servers = [_server(app, patience, drain.finish) for app in apps]
        with _until_signal(room, servers, drain.announce):
            pairs = zip(servers, (both.front, both.back), strict=True)
            running = asyncio.gather(*(server.serve([sock]) for server, sock in pairs))
            up(room)
            await running


def _admin(document: Document, room: Rooms) -> FastAPI:
    """The operators' side, whose audit log says that it was started."""
    config = document.config
    operators = operators_of(config, os.environ)
    audit = Audit(config.admin.audit) if config.admin.audit else None
    room.revisions.swapped.append(lambda runtime: renew(operators, runtime.config))
    if audit:
        note_start(audit, room.revisions.active)
    app = admin_app(room.revisions, operators, room.decisions, audit, room.member)
    app.state.keys = room.gateway.keys
    add_ui(app, room.sources)
    return app


def settle() -> None:
    """Spare the garbage collector what will never be garbage.

    A request makes few cycles, and the default thresholds look for them every 700 objects, through
    all that was ever imported: an eighth of the time of a short request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_EVERY)


def ample() -> float:
    """Seconds that the clients of what is no gateway may take."""
    return LimitsConfig().client


def _server(app: object, patience: Callable[[], float], finish: float = DRAIN) -> Listening:
    return Listening(
        uvicorn.Config(
            app,  # type: ignore[arg-type]  # ours is stricter about its messages than uvicorn's
            http=partial(Connection, patience=patience),  # type: ignore[arg-type]  # it is called
            loop="none",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            access_log=False,
            log_level="warning",
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=ceil(finish),
        )
    )


@contextlib.contextmanager
def _until_signal(room: Rooms, servers: Sequence[Listening], announce: float) -> Iterator[None]:
    """SIGINT and SIGTERM announce the end, `announce` seconds before it; a second one ends all."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        for server in servers:
            server.should_exit = True

    def stop() -> None:
        if room.gateway.draining:
            for server in servers:
                server.force_exit = True
            end()
        room.gateway.draining = room.member.draining = True
        loop.call_later(announce, end)

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
