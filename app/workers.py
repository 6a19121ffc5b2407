"""Several processes that serve as one: started, watched, restarted in turn, ended together.

The parent binds the sockets and gives them to its children, which all accept from them: so no
connection is refused while one of them ends, and none is lost in the line of one that is gone. The
first child starts alone; if it cannot serve, nothing does, and the reason is printed once. A child
that dies is started anew: soon if it had lived long. SIGTERM and SIGINT are passed on; SIGHUP
restarts the children in turn, each one's successor first.

Children end with their parent, even if it is killed: each holds a pipe of which the parent has the
other end. The folder of the run, for what they share, is the parent's and goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from app.report import welcome
from app.serve import Listen, ServeError, Sockets, sockets
from router.config import Document

READY = b"ready\n"
"""What a child writes when it is about to answer."""
STARTING = 120.0
"""Seconds that a child may take to start: loading artifacts, and a first look at its backends."""
OVER = 5.0
"""Seconds that a child has to end after its answers have."""
PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds before a child that died is started anew; twice as long each time."""
STEADY = 30.0
"""Seconds after which a child that dies has not died of its start."""

logger = logging.getLogger("tandem.workers")


@dataclass(frozen=True, slots=True)
class Order:
    """What a child must know: its document, its sockets' numbers, the folder, and its place.

    `first` is the one that reports what it found of the backends.
    """

    text: str
    form: str
    source: str
    front: int
    back: int
    run: str
    slot: int
    first: bool


@dataclass(slots=True, eq=False)
class Child:
    """One process that serves, and when it began."""

    process: asyncio.subprocess.Process
    began: float = field(default_factory=time.monotonic)

    @property
    def steady(self) -> bool:
        """Whether it lived long enough not to have died of its start."""
        return time.monotonic() - self.began > STEADY

    def signal(self, number: signal.Signals) -> None:
        """Pass a signal on, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def ended(self, patience: float) -> None:
        """Wait for its end; after so many seconds it is killed."""
        try:
            async with asyncio.timeout(patience):
                await self.process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.process.wait()


class Crew:
    """The children of one run, by their place: `slot`, from 0."""

    def __init__(self, document: Document, both: Sockets, number: int, run: Path) -> None:
        self._document = document
        self._both = both
        self._number = number
        self._run = run
        self._ending = asyncio.Event()
        self._serving: dict[int, Child] = {}
        self._running: set[Child] = set()
        self._holding: list[asyncio.Task[None]] = []
        self._turns = asyncio.Lock()
        self._patience = document.config.drain.announce + document.config.drain.finish + OVER

    async def start(self) -> None:
        """Start them all; raises `ServeError` if the first one cannot serve."""
        first = await self._spawn(0, first=True)
        if first is None and not self._ending.is_set():
            raise ServeError("no worker could be started (see above)")
        for slot in range(self._number):
            hold = self._hold(slot, first if slot == 0 else None)
            self._holding.append(asyncio.create_task(hold))

    def end(self) -> None:
        """Ask all to end. Asked twice, they end at once."""
        self._ending.set()
        for child in self._running:
            child.signal(signal.SIGTERM)

    @property
    def ending(self) -> bool:
        """Whether they were asked to end."""
        return self._ending.is_set()

    async def asked(self) -> None:
        """Wait until they were asked to end."""
        await self._ending.wait()

    async def over(self) -> None:
        """Wait until all have ended."""
        for task in self._holding:
            task.cancel()
        await asyncio.gather(*self._holding, return_exceptions=True)
        await asyncio.gather(*(child.ended(self._patience) for child in self._running))

    def renew(self) -> None:
        """Restart them in turn, each one's successor first."""
        self._holding.append(asyncio.create_task(self._renew()))

    async def _renew(self) -> None:
        async with self._turns:
            for slot in range(self._number):
                successor = await self._spawn(slot)
                if successor is None:
                    logger.error("worker %d could not be restarted: the old one goes on", slot)
                    return
                former = self._serving.get(slot)
                self._serving[slot] = successor
                if former:
                    former.signal(signal.SIGTERM)
                    await former.ended(self._patience)
            logger.warning("%d workers were restarted", self._number)

    async def _hold(self, slot: int, child: Child | None) -> None:
        """Have a child in this place, for ever."""
        pause = PAUSE
        while True:
            if child is None:
                child = await self._spawn(slot)
            if child is not None:
                self._serving[slot] = child
                status = await child.process.wait()
                self._running.discard(child)
                if self._serving[slot] is not child:
                    child = self._serving[slot]  # which has taken its place
                    continue
                logger.error("worker %d ended (status %s): starting another", slot, status)
                pause = PAUSE if child.steady else pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            child = None

    async def _spawn(self, slot: int, *, first: bool = False) -> Child | None:
        """A child that serves; None if it does not."""
        front, back = self._both.front.fileno(), self._both.back.fileno()
        written, run = self._document.written, str(self._run)
        order = Order(
            *(written.text, written.form.value, written.source), front, back, run, slot, first
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(front, back),
            start_new_session=True,  # Ctrl-C is the parent's, which passes it on
        )
        child = Child(process)
        self._running.add(child)
        if await _ready(process, order):
            return child
        child.signal(signal.SIGKILL)
        await process.wait()
        self._running.discard(child)
        return None


async def _ready(process: asyncio.subprocess.Process, order: Order) -> bool:
    """Give a child its order, and wait until it serves or does not."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(TimeoutError, ConnectionError):
        process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        async with asyncio.timeout(STARTING):
            return await process.stdout.readline() == READY
    return False


async def serve_many(
    document: Document, listen: Listen, number: int, *, embedded: bool = False
) -> None:
    """Serve with so many processes until a signal. Raises `ServeError` if they cannot."""
    with (
        sockets(document.config, listen) as both,
        tempfile.TemporaryDirectory(prefix="tandem-") as folder,
    ):
        crew = Crew(document, both, number, Path(folder))
        async with _signals(crew):
            await crew.start()
            said = welcome(
                document.config, both.front, both.back, both.admin_said, embedded=embedded
            )
            print(f"{said}\nworkers: {number}", flush=True)
            await crew.asked()


@contextlib.asynccontextmanager
async def _signals(crew: Crew) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    actions = {signal.SIGINT: crew.end, signal.SIGTERM: crew.end, signal.SIGHUP: crew.renew}
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        if not crew.ending:
            crew.end()
        await crew.over()
        for number in actions:
            loop.remove_signal_handler(number)
